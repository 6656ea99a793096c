"""EXIF's orientations: where a pixel of a stored image is in the upright one, and back."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from d2_hloc.core.images import read_image
from d2_hloc.core.orientation import (
    ORIENTATIONS,
    to_stored,
    to_upright,
    turned,
    upright_image,
    upright_size,
)

pytestmark = pytest.mark.usefixtures("on_device")

SIZE = (7, 4)  # w, h


@pytest.fixture
def stored():
    """An image whose pixels are all different."""
    return Image.fromarray(np.arange(28, dtype=np.uint8).reshape(4, 7))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_pixel_is_where_pillow_puts_it(stored, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    upright = upright_image(stored, orientation)
    np.testing.assert_array_equal(np.asarray(upright), expected)
    assert upright.size == upright_size(SIZE, orientation)
    assert upright_size(upright.size, orientation) == SIZE
    xy = np.array([(x, y) for y in range(4) for x in range(7)], dtype=np.float32)
    moved = to_upright(xy, orientation, SIZE)
    np.testing.assert_array_equal(
        expected[tuple(moved.astype(int).T[::-1])], np.asarray(stored).ravel()
    )
    np.testing.assert_array_equal(to_stored(moved, orientation, SIZE), xy)
    of_tensor = to_upright(torch.tensor(xy), orientation, SIZE)
    np.testing.assert_array_equal(of_tensor.cpu().numpy(), moved)


def test_places_between_pixels_keep_their_precision():
    xy = torch.tensor([[5999.123456789, 0.25]], dtype=torch.float64)
    for orientation in ORIENTATIONS:
        there = to_upright(xy, orientation, (6000, 4000))
        assert torch.equal(to_stored(there, orientation, (6000, 4000)), xy)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_quarter_turn_more_is_clockwise(stored, orientation):
    upright = np.asarray(upright_image(stored, orientation))
    for quarters in range(-1, 4):
        again = np.asarray(upright_image(stored, turned(orientation, quarters)))
        np.testing.assert_array_equal(again, np.rot90(upright, -quarters))


def test_an_image_is_read_upright_with_its_stored_size(stored, tmp_path):
    stored.save(tmp_path / "a.png")
    image, size = read_image(tmp_path / "a.png", 6, orientation=6)
    assert size == SIZE
    assert image.shape == (3, 6, 3)
