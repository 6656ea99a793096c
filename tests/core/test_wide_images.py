"""Images of more than 8 bits a value, of which others keep next to nothing: grey and colours."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from d2_hloc.core.images import ImageError, open_image
from d2_hloc.core.photographs.tones import eight_bit_images, folder_span


@pytest.fixture
def colours():
    """Values of 12 bits (60, 80, 3), no two channels or directions the same."""
    red, green = np.meshgrid(np.linspace(0, 4095, 80), np.linspace(4095, 0, 60))
    return np.stack([red, green, (red + green) / 4], axis=2).astype(np.uint16)


def save_png(path, values):
    """Write 16 bits of (H, W, 3) or (H, W, 4), which Pillow cannot, row by row without a filter."""

    def chunk(name, data):
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def save_tiff(path, values, **options):
    tifffile.imwrite(path, values, photometric="rgb", **options)
    return path


@pytest.mark.parametrize("kind", ["png", "png with alpha", "<", ">", "compressed"])
def test_colours_of_12_bits_are_stretched_as_grey_is(tmp_path, colours, kind):
    if kind.startswith("png"):
        alpha = np.full((60, 80, kind.count("alpha")), 65535, np.uint16)
        path = save_png(tmp_path / "a.png", np.concatenate([colours, alpha], axis=2))
    elif kind == "compressed":
        path = save_tiff(tmp_path / "a.tif", colours, compression="zlib")
    else:
        path = save_tiff(tmp_path / "a.tif", colours, byteorder=kind)
    found = np.asarray(open_image(path)).astype(float)
    assert abs(found - colours / 4095 * 255).max() < 2
    low, high = folder_span(tmp_path, [path.name])
    assert (low, high) == pytest.approx((0, 4095), abs=20)


def test_colours_that_use_16_bits_stay_as_they_are(tmp_path, colours):
    path = save_png(tmp_path / "a.png", colours * 16)
    assert abs(np.asarray(open_image(path)).astype(float) - colours * 16 / 257).max() <= 1


def test_half_an_image_of_colours_does_not_count_as_one(tmp_path):
    noise = np.random.default_rng(0).integers(0, 4096, (60, 80, 3)).astype(np.uint16)
    path = save_png(tmp_path / "a.png", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"a\.png: cannot be read as an image"):
        open_image(path)


def test_images_of_many_bits_are_stretched_for_colmap_and_others_linked(tmp_path, colours):
    images = tmp_path / "images"
    (images / "a").mkdir(parents=True)
    Image.fromarray(colours[..., 0]).save(images / "a" / "wide.png")
    save_png(images / "colours.png", colours)
    Image.new("RGB", (80, 60), (1, 2, 3)).save(images / "plain.jpg")
    assert eight_bit_images(images, ["plain.jpg"], tmp_path / "part") == images
    names = ["a/wide.png", "colours.png", "plain.jpg"]
    folder = eight_bit_images(images, names, tmp_path / "part")
    for name, shape in (("a/wide.png", (60, 80)), ("colours.png", (60, 80, 3))):
        stretched = np.asarray(Image.open(folder / name))
        assert (stretched.dtype, stretched.shape) == (np.uint8, shape)
        assert stretched.max() == 255
    assert (folder / "plain.jpg").resolve() == images / "plain.jpg"
