"""Features and shallow maps of images that are stored turned are those of the upright image."""

import numpy as np
import pytest
import torch
from PIL import Image

from d2_hloc.core.orientation import ORIENTATIONS, TRANSPOSES, to_stored
from d2_hloc.features.extracted import Extracted
from d2_hloc.features.extraction import ExtractionOptions, extract
from d2_hloc.files import features_h5
from d2_hloc.hloc.commands import extraction_options_of
from d2_hloc.hloc.plugin import EXTRACTORS
from d2_hloc.refinement.shallow_maps import MapReader

UNDO = {5: 5, 6: 8, 8: 6}  # orientation: the one that turns the image back; others are their own
OPTIONS = ExtractionOptions(resize_max=150, descriptor_dtype="float32")
TURNED = [f"{orientation}.png" for orientation in ORIENTATIONS if orientation != 1]


@pytest.fixture(scope="module")
def images(photo, tmp_path_factory):
    """A photograph stored in all of EXIF's orientations: 1.png is upright."""
    folder = tmp_path_factory.mktemp("images")
    upright = Image.fromarray((photo.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    for orientation in ORIENTATIONS:
        back = TRANSPOSES.get(UNDO.get(orientation, orientation))
        stored, exif = upright if back is None else upright.transpose(back), Image.Exif()
        exif[0x0112] = orientation
        stored.save(folder / f"{orientation}.png", exif=exif)
    return folder


@pytest.fixture(scope="module")
def extracted(images, tmp_path_factory):
    return extract(OPTIONS, images, tmp_path_factory.mktemp("features") / "features.h5")


@pytest.mark.parametrize("name", TURNED)
def test_features_are_those_of_the_upright_image_in_stored_pixels(extracted, images, name):
    upright, found = (features_h5.read_features(extracted.path, n) for n in ("1.png", name))
    size = Image.open(images / name).size
    assert extracted.sizes[name] == size
    assert len(found) > 50
    assert found.descriptors.equal(upright.descriptors)
    assert found.global_descriptor.equal(upright.global_descriptor)
    expected = to_stored(upright.keypoints.double(), int(name[0]), size)
    np.testing.assert_allclose(found.keypoints.numpy(), expected.numpy(), atol=1e-4)


def test_the_file_says_how_images_were_turned(extracted):
    expected = {f"{orientation}.png": orientation for orientation in range(2, 9)}
    assert Extracted.read(extracted.path).orientations == expected


@pytest.mark.parametrize("name", TURNED)
def test_shallow_maps_are_those_of_the_upright_image(extracted, images, name):
    maps = MapReader(150).of(images, 1 << 30, 1, extracted.orientations)
    upright, turned = maps["1.png"], maps[name]
    assert turned.maps.fine.equal(upright.maps.fine)
    keypoints = [features_h5.read_keypoints(extracted.path, n) for n in ("1.png", name)]
    places = (
        upright.to_maps(torch.from_numpy(keypoints[0])),
        turned.to_maps(torch.from_numpy(keypoints[1])),
    )
    np.testing.assert_allclose(places[0].numpy(), places[1].numpy(), atol=1e-3)
    np.testing.assert_allclose(turned.to_original(places[1]).numpy(), keypoints[1], atol=1e-3)


def test_hlocs_commands_leave_images_as_they_are_stored(images, tmp_path):
    conf = EXTRACTORS["d2net"]
    options = extraction_options_of(conf, "float32")
    found = extract(options, images, tmp_path / "features.h5", ["6.png"])
    assert found.orientations == {}
