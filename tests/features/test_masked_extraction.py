"""No features in what a mask hides, whatever the feature and the way the image is stored."""

import shutil
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from d2_hloc.core.images import ImageError
from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.photographs.masks import save_mask
from d2_hloc.features.extraction import ExtractionOptions, extract
from d2_hloc.files import features_h5
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.files.staged_h5 import Staged

SIZE = (313, 235)


@pytest.fixture(scope="module")
def images(photo, tmp_path_factory):
    """A photograph as it is and stored upside down, and masks that hide its left half."""
    folder = tmp_path_factory.mktemp("images")
    image = Image.fromarray((photo.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    image.save(folder / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    image.transpose(Image.Transpose.ROTATE_180).save(folder / "turned.png", exif=exif)
    shown = np.ones((SIZE[1], SIZE[0]), bool)
    shown[:, :160] = False
    save_mask(folder / "masks" / "a.png.png", shown)
    save_mask(folder / "masks" / "turned.png.png", shown[::-1, ::-1])
    return folder


NAMES = ["a.png", "turned.png"]


@pytest.mark.parametrize("feature", ["d2net", "d2net-dense", "sift"])
def test_features_are_where_the_mask_is_white(images, tmp_path, feature):
    masks = MaskOptions(folder=images / "masks")
    plain = ExtractionOptions(feature=feature, resize_max=150)
    masked = ExtractionOptions(feature=feature, resize_max=150, masks=masks)
    whole = extract(plain, images, tmp_path / "whole.h5", NAMES).path
    found = extract(masked, images, tmp_path / "masked.h5", NAMES).path
    for name, side in (("a.png", 1), ("turned.png", -1)):
        before, after = (features_h5.read_features(path, name) for path in (whole, found))
        x = (
            before.keypoints[:, 0].round()
            if side > 0
            else SIZE[0] - 1 - before.keypoints[:, 0].round()
        )
        assert len(after) == int((x >= 160).sum()) > 10
        assert len(after) < len(before)
        kept = before.chosen((x >= 160).nonzero()[:, 0])
        assert after.descriptors.equal(kept.descriptors)


def test_the_best_are_chosen_among_the_visible(images, tmp_path):
    masks = MaskOptions(folder=images / "masks")
    options = ExtractionOptions(resize_max=150, masks=masks, top_k=7)
    path = extract(options, images, tmp_path / "f.h5", NAMES).path
    assert len(features_h5.read_features(path, "a.png")) == 7


def test_other_masks_are_another_configuration(images, tmp_path):
    extract(ExtractionOptions(resize_max=100), images, tmp_path / "f.h5", NAMES)
    options = ExtractionOptions(resize_max=100, masks=MaskOptions(folder=images / "masks"))
    with pytest.raises(ConfigurationChanged):
        extract(options, images, tmp_path / "f.h5", NAMES)


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_a_mask_that_was_replaced_is_noticed(images, tmp_path, monkeypatch, is_interrupted):
    folder = tmp_path / "masks"
    shutil.copytree(images / "masks", folder)
    options = ExtractionOptions(feature="sift", resize_max=150, masks=MaskOptions(folder=folder))
    output = tmp_path / "f.h5"
    with monkeypatch.context() as patched:
        if is_interrupted:
            patched.setattr(Staged, "_merge", interrupt)
        with pytest.raises(KeyboardInterrupt) if is_interrupted else nullcontext():
            extract(options, images, output, NAMES)
    save_mask(folder / "a.png.png", np.ones((SIZE[1], SIZE[0]), bool))
    if not is_interrupted:
        with pytest.raises(ImageError, match=r"a\.png changed since"):
            extract(options, images, output, NAMES)
        return
    found = extract(options, images, output, NAMES).path
    plain = ExtractionOptions(feature="sift", resize_max=150)
    whole = extract(plain, images, tmp_path / "whole.h5", NAMES).path
    counts = [len(features_h5.read_features(path, "a.png")) for path in (found, whole)]
    assert counts[0] == counts[1]


def interrupt(*_):
    raise KeyboardInterrupt
