"""Masks: which pixels of an image count."""

import logging

import numpy as np
import pytest
from PIL import Image

from d2_hloc.core.images import ImageError
from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.photographs.masks import are_visible, check_masks, save_mask, visible_pixels

SIZE = (6, 4)


@pytest.fixture
def images(tmp_path):
    """An opaque photograph, and one that is transparent in its first column."""
    Image.new("RGB", SIZE, (90, 90, 90)).save(tmp_path / "a.jpg")
    clear = np.full((4, 6, 4), 200, np.uint8)
    clear[:, 0, 3], clear[:, 1, 3] = 0, 1
    Image.fromarray(clear).save(tmp_path / "clear.png")
    return tmp_path


def test_a_mask_has_the_name_of_its_image_and_black_is_ignored(images, tmp_path):
    options = MaskOptions(folder=tmp_path / "masks")
    wanted = np.arange(24).reshape(4, 6) % 5 > 0
    save_mask(tmp_path / "masks" / "a.jpg.png", wanted)
    np.testing.assert_array_equal(visible_pixels(options, images, "a.jpg", SIZE), wanted)
    assert visible_pixels(options, images, "clear.png", SIZE) is None  # has no mask


def test_nearly_black_counts_in_any_mode(images, tmp_path):
    options, path = MaskOptions(folder=tmp_path), tmp_path / "a.jpg.png"
    for image in (
        Image.new("L", SIZE, 1),
        Image.new("RGB", SIZE, (0, 0, 1)),
        Image.new("1", SIZE, 1),
    ):
        image.save(path)
        assert visible_pixels(options, images, "a.jpg", SIZE).all()


def test_transparent_pixels_are_ignored_where_that_is_asked_for(images):
    assert visible_pixels(MaskOptions(), images, "clear.png", SIZE) is None
    visible = visible_pixels(MaskOptions(alpha=True), images, "clear.png", SIZE)
    assert (~visible).sum() == 4
    assert visible[:, 1:].all()
    assert visible_pixels(MaskOptions(alpha=True), images, "a.jpg", SIZE) is None


def test_a_mask_of_another_size_is_refused(images, tmp_path):
    Image.new("L", (4, 6)).save(tmp_path / "a.jpg.png")
    with pytest.raises(ImageError, match=r"a\.jpg\.png: is 4 x 6 pixels, and its image 6 x 4"):
        visible_pixels(MaskOptions(folder=tmp_path), images, "a.jpg", SIZE)


def test_missing_masks_are_named_before_the_work(tmp_path, caplog):
    with pytest.raises(ImageError, match="no such folder of masks"):
        check_masks(MaskOptions(folder=tmp_path / "none"), ["a.jpg"])
    with pytest.raises(
        ImageError, match=r"no mask of any image; the mask of a\.jpg is a\.jpg\.png"
    ):
        check_masks(MaskOptions(folder=tmp_path), ["a.jpg", "b.jpg"])
    save_mask(tmp_path / "a.jpg.png", np.ones((4, 6), bool))
    with caplog.at_level(logging.WARNING):
        check_masks(MaskOptions(folder=tmp_path), ["a.jpg", "b.jpg"])
    assert "no mask of 1 of 2 images, which count wholly (the first: b.jpg)" in caplog.text


def test_places_count_by_their_nearest_pixel():
    visible = np.zeros((4, 6), bool)
    visible[1, 2] = True
    xy = np.array([[2, 1], [2.4, 0.6], [2.6, 1], [-0.4, 0], [-9, 1], [2, 99]])
    assert are_visible(visible, xy).tolist() == [True, True, False, False, False, False]
