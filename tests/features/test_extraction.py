"""Folders as people have them: every usable image is done, the others are named."""

import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from d2_hloc.core.images import ImageError
from d2_hloc.features import extraction
from d2_hloc.features.compression import compress
from d2_hloc.features.extraction import (
    extract,
    extraction_configuration,
    recorded_options,
    unusable_names,
)
from d2_hloc.features.options import CompressionOptions, ExtractionOptions
from d2_hloc.files import features_h5
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.options import D2NetOptions

OPTIONS = ExtractionOptions(d2net=D2NetOptions(max_keypoints=50))


@pytest.fixture
def folder(tmp_path):
    """A grey, a CMYK, a 16-bit, a palette and a nested image; an empty, a cut and a tiny one."""
    images = tmp_path / "images"
    (images / "nested").mkdir(parents=True)
    photo = Image.fromarray(data.astronaut()[:150, :203])
    photo.convert("L").save(images / "grey.png")
    photo.convert("CMYK").save(images / "cmyk.jpg")
    photo.convert("P").save(images / "palette.png")
    sixteen = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    Image.fromarray(sixteen).save(images / "sixteen.png")
    photo.save(images / "nested" / "photo.JPG")
    (images / "empty.jpg").touch()
    (images / "cut.jpg").write_bytes((images / "cmyk.jpg").read_bytes()[:2000])
    photo.resize((5, 5)).save(images / "tiny.png")
    return images


def test_extracts_what_it_can_and_names_the_rest(folder, tmp_path):
    path = extract(OPTIONS, folder, tmp_path / "features.h5").path
    usable = ["cmyk.jpg", "grey.png", "nested/photo.JPG", "palette.png", "sixteen.png"]
    assert features_h5.extracted_names(path) == usable
    reasons = features_h5.read_failures(path)
    assert sorted(reasons) == ["cut.jpg", "empty.jpg", "tiny.png"]
    assert "too small" in reasons["tiny.png"]
    assert "cannot be read as an image" in reasons["empty.jpg"]
    for name in usable:
        assert len(features_h5.read_features(path, name)) == 50
        assert features_h5.read_image_size(path, name) == (203, 150)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("grey\nphoto.png", "holds control characters"),
        (" grey.png", "begins or ends with a space"),
        ("nested-palette.png", "matches.h5 calls it nested-palette.png"),
        (os.fsdecode(b"gr\xe9.png"), "cannot be written in UTF-8"),
    ],
)
def test_a_name_that_lists_cannot_hold_is_named_and_skipped(folder, tmp_path, name, reason):
    (folder / "grey.png").rename(folder / name)
    (folder / "palette.png").rename(folder / "nested" / "palette.png")
    path = extract(OPTIONS, folder, tmp_path / "f.h5", ["nested/palette.png", name]).path
    assert features_h5.extracted_names(path) == ["nested/palette.png"]
    (found,) = features_h5.read_failures(path).values()
    assert reason in found


def test_a_locale_that_is_not_in_utf8_is_named(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    found = unusable_names(["Ã¤.jpg", "a.jpg"])
    assert list(found) == ["Ã¤.jpg"]
    assert "the locale's encoding is iso8859-1, not UTF-8: set PYTHONUTF8=1" in found["Ã¤.jpg"]


@pytest.mark.parametrize("grown", [True, False], ids=["other size", "same size"])
def test_a_photograph_that_was_replaced_stops_in_one_sentence(folder, tmp_path, grown):
    names = ["grey.png", "palette.png"]
    path = extract(OPTIONS, folder, tmp_path / "f.h5", names).path
    before = path.read_bytes()
    data = (folder / "grey.png").read_bytes()
    (folder / "grey.png").write_bytes(data + b"0" if grown else data[:-1] + b"0")
    os.utime(folder / "grey.png", (0, 0) if grown else (2e9, 2e9))
    with pytest.raises(ImageError, match=r"images: grey\.png changed since .*f\.h5 was made"):
        extract(OPTIONS, folder, path, names)
    assert path.read_bytes() == before


def test_a_photograph_that_was_touched_or_removed_is_done(folder, tmp_path, monkeypatch):
    names = ["grey.png", "palette.png"]
    path = extract(OPTIONS, folder, tmp_path / "f.h5", names).path
    os.utime(folder / "grey.png", (2e9, 2e9))
    (folder / "palette.png").unlink()
    monkeypatch.setattr(extraction, "create_extractor", lambda options: pytest.fail("loaded"))
    assert extract(OPTIONS, folder, path, names).path == path


def test_images_that_wait_in_parts_are_no_images_that_changed(folder, tmp_path, monkeypatch):
    path = extract(OPTIONS, folder, tmp_path / "features.h5", ["grey.png"]).path
    with monkeypatch.context() as patch:
        patch.setattr(Staged, "_merge", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract(OPTIONS, folder, path, ["grey.png", "palette.png"])
    extract(OPTIONS, folder, path, ["grey.png", "palette.png"])
    assert features_h5.extracted_names(path) == ["grey.png", "palette.png"]


@pytest.mark.parametrize("when", [0, 2e9], ids=["old", "future"])
def test_a_photograph_replaced_while_it_waits_in_a_part_is_extracted_anew(
    folder, tmp_path, monkeypatch, when
):
    path, name = tmp_path / "features.h5", "grey.png"
    with monkeypatch.context() as patch:
        patch.setattr(Staged, "_merge", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract(OPTIONS, folder, path, [name, "palette.png"])
    Image.fromarray(data.coffee()[:150, :203]).convert("L").save(folder / name)
    os.utime(folder / name, (when, when))
    extract(OPTIONS, folder, path, [name, "palette.png"])
    fresh = extract(OPTIONS, folder, tmp_path / "fresh.h5", [name]).path
    assert features_h5.extracted_names(path) == [name, "palette.png"]
    found, expected = (features_h5.read_keypoints(p, name) for p in (path, fresh))
    np.testing.assert_array_equal(found, expected)


def test_features_of_the_future_do_not_vouch_for_photographs(folder, tmp_path):
    path = extract(OPTIONS, folder, tmp_path / "f.h5", ["grey.png"]).path
    os.utime(path, (4e9, 4e9))
    data = (folder / "grey.png").read_bytes()
    (folder / "grey.png").write_bytes(data[:-1] + b"0")
    with pytest.raises(ImageError, match=r"grey\.png changed since"):
        extract(OPTIONS, folder, path, ["grey.png"])


def interrupt(*_):
    raise KeyboardInterrupt


def test_sixteen_bits_look_like_eight(folder, tmp_path):
    path = extract(OPTIONS, folder, tmp_path / "features.h5").path
    grey, sixteen = (
        features_h5.read_features(path, n).keypoints for n in ("grey.png", "sixteen.png")
    )
    torch.testing.assert_close(grey, sixteen, atol=1e-3, rtol=0)


def test_a_finished_file_needs_no_network(folder, tmp_path, monkeypatch):
    names = ["grey.png", "nested/photo.JPG"]
    path = extract(OPTIONS, folder, tmp_path / "features.h5", names).path
    monkeypatch.setattr(extraction, "create_extractor", lambda options: pytest.fail("loaded"))
    assert extract(OPTIONS, folder, path, names).path == path


def test_another_configuration_stops_and_shows_both(folder, tmp_path):
    path = extract(OPTIONS, folder, tmp_path / "features.h5", ["grey.png"]).path
    other = ExtractionOptions(d2net=D2NetOptions(max_keypoints=60))
    with pytest.raises(ConfigurationChanged, match=r'"max_keypoints": 50.*"max_keypoints": 60'):
        extract(other, folder, path)


def test_keypoints_follow_the_image_to_its_original_size(folder, tmp_path):
    small = ExtractionOptions(resize_max=128, descriptor_dtype="float32")
    path = extract(small, folder, tmp_path / "small.h5", ["grey.png"]).path
    found = features_h5.read_features(path, "grey.png")
    image = Image.open(folder / "grey.png").convert("RGB").resize((128, 95), Image.BILINEAR)
    direct = D2Net().extract(torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255)
    scale = torch.tensor([203 / 128, 150 / 95])
    torch.testing.assert_close(found.keypoints, (direct.keypoints + 0.5) * scale - 0.5)
    torch.testing.assert_close(found.descriptors, direct.descriptors)
    assert features_h5.open_h5(path)["grey.png/keypoints"].attrs["uncertainty"] > 1.3


def test_the_options_come_back_from_the_file(folder, tmp_path):
    options = ExtractionOptions(feature="d2net-ms", resize_max=100)
    path = extract(options, folder, tmp_path / "features.h5", ["grey.png"]).path
    again = recorded_options(features_h5.read_configuration(path), str(path))
    assert extraction_configuration(again) == extraction_configuration(options)


def test_batches_give_the_same_features(folder, tmp_path):
    names = ["cmyk.jpg", "grey.png", "sixteen.png"]
    single = extract(ExtractionOptions(), folder, tmp_path / "single.h5", names).path
    batched = extract(ExtractionOptions(batch_size=2), folder, tmp_path / "batched.h5", names).path
    for name in names:
        a, b = (features_h5.read_features(p, name) for p in (single, batched))
        torch.testing.assert_close(a.keypoints, b.keypoints, atol=1e-3, rtol=0)


def test_sift_finds_a_planted_blob(tmp_path):
    y, x = np.mgrid[:200, :240]
    blob = 200 * np.exp(-((x - 120.3) ** 2 + (y - 80.6) ** 2) / (2 * 6**2))
    Image.fromarray(blob.astype(np.uint8)).save(tmp_path / "blob.png")
    options = ExtractionOptions(feature="sift")
    path = extract(options, tmp_path, tmp_path / "features.h5").path
    found = features_h5.read_features(path, "blob.png")
    assert found.descriptors.shape[1] == 128
    distances = (found.keypoints - torch.tensor([120.3, 80.6])).norm(dim=1)
    assert distances.min() < 0.15


def test_nothing_usable_is_one_sentence(folder, tmp_path):
    with pytest.raises(ImageError, match="none of the 2 images can be used"):
        extract(OPTIONS, folder, tmp_path / "features.h5", ["empty.jpg", "missing.jpg"])
    with pytest.raises(ImageError, match="no such folder"):
        extract(OPTIONS, tmp_path / "nowhere", tmp_path / "features.h5")


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_descriptors_are_compressed_as_they_are_extracted(folder, tmp_path, dtype):
    small = CompressionOptions(dimensions=64, dtype=dtype)
    options = replace(OPTIONS, compression=small)
    path = extract(options, folder, tmp_path / "small.h5", ["grey.png"]).path
    whole = extract(OPTIONS, folder, tmp_path / "whole.h5", ["grey.png"]).path
    later = compress(small, whole, tmp_path / "later.h5").path
    assert features_h5.read_configuration(later) == features_h5.read_configuration(path)
    found, expected = (features_h5.read_features(p, "grey.png").descriptors for p in (path, later))
    assert found.shape == (50, 64)
    torch.testing.assert_close(found.float(), expected.float(), atol=0.01, rtol=0)
    assert (found.float() * expected.float()).sum(dim=1).min() > 0.999
    assert recorded_options(features_h5.read_configuration(path), str(path)).compression == small
    assert extract(options, folder, later, ["grey.png", "palette.png"]).path == later
    assert features_h5.read_features(later, "palette.png").descriptors.shape == (50, 64)


@pytest.mark.parametrize("feature", ["d2net", "d2net-ms", "d2net-fine"])
@pytest.mark.parametrize("size", [(60, 1), (1, 60), (3, 200), (1, 1)])
def test_an_image_with_a_short_edge_is_skipped_by_name(folder, tmp_path, feature, size):
    Image.new("RGB", size).save(folder / "short.png")
    options = replace(OPTIONS, feature=feature)
    names = ["grey.png", "short.png"]
    found = extract(options, folder, tmp_path / "features.h5", names)
    assert list(found.names) == ["grey.png"]
    assert "is too small" in found.failures["short.png"]


def test_images_are_extracted_at_once_with_a_thread_each_and_the_same_features(
    folder, tmp_path, one_thread, monkeypatch
):
    """Bit by bit: which core an image is on says nothing about it."""
    small = replace(OPTIONS, resize_max=320)
    alone = extract(small, folder, tmp_path / "alone.h5")
    torch.set_num_threads(3)
    most, running = 0, set()
    original = extraction._extract_batch

    def watched(extractor, batch, failures):
        nonlocal most
        running.add(batch[0].name)
        most = max(most, len(running))
        assert torch.get_num_threads() == 1
        yield from original(extractor, batch, failures)
        running.discard(batch[0].name)

    monkeypatch.setattr(extraction, "_extract_batch", watched)
    together = extract(small, folder, tmp_path / "together.h5")
    assert torch.get_num_threads() == 3
    assert most > 1
    assert (together.names, together.failures) == (alone.names, alone.failures)
    for name in alone.names:
        here, there = (features_h5.read_features(r.path, name) for r in (alone, together))
        assert torch.equal(here.keypoints, there.keypoints)
        assert torch.equal(here.descriptors, there.descriptors)


def test_cores_share_images_where_there_are_few_or_memory_is_short(one_thread, monkeypatch):
    network, options = D2Net(), ExtractionOptions(resize_max=1600)
    torch.set_num_threads(4)
    monkeypatch.setattr(extraction, "free_memory", lambda: 128 << 30)
    asked = {
        "all": (network, options, 9),
        "few images": (network, options, 2),
        "one": (network, options, 1),
        "large images": (network, replace(options, resize_max=None), 9),
        "not ours": (lambda images: [], options, 9),
    }
    found = {}
    for name, given in asked.items():
        with extraction.an_image_a_thread(*given) as workers:
            found[name] = workers, torch.get_num_threads()
    assert found == {
        "all": (4, 1),
        "few images": (2, 2),
        "one": (1, 4),
        "large images": (1, 4),
        "not ours": (1, 4),
    }
    monkeypatch.setattr(extraction, "free_memory", lambda: 20 << 30)
    with extraction.an_image_a_thread(*asked["all"]) as workers:
        assert (workers, torch.get_num_threads()) == (1, 4)
