"""Reading images of every kind, and refusing what is none in one sentence."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, features

from d2_hloc.core.images import fit, luma, open_image, read_image, to_tensor
from d2_hloc.core.listing import ImageError, list_images
from d2_hloc.core.photographs.tones import folder_span


@pytest.fixture
def colours():
    """An image of 471 x 313 in which no two channels, rows or columns are the same."""
    return np.random.default_rng(0).integers(0, 256, (313, 471, 3)).astype(np.uint8)


def saved(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".bmp", ".tif", ".PNG"])
def test_a_lossless_image_is_read_exactly(tmp_path, colours, suffix):
    image, size = read_image(saved(tmp_path / f"a{suffix}", colours))
    assert size == (471, 313)
    assert image.shape == (3, 313, 471)
    assert image.dtype == torch.float32
    assert np.array_equal((image * 255).round().permute(1, 2, 0).numpy(), colours)


def test_values_span_0_to_1_and_red_comes_first():
    image = to_tensor(Image.new("RGB", (3, 2), (255, 0, 51)))
    assert image.amax(dim=(1, 2)).tolist() == pytest.approx([1.0, 0.0, 0.2])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_grey_palette_and_alpha_become_three_channels(tmp_path, mode):
    Image.new("L", (7, 5), 255).convert(mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")[0]
    assert image.shape == (3, 5, 7)
    assert image.min() == 1.0


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    found = np.asarray(open_image(saved(tmp_path / "a.png", values)))
    assert found[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 4095, np.uint16), (29000, 31000, np.uint16), (-20, 35, np.float32), (1e6, 2e6, np.int32)],
    ids=["12 bits", "thermal", "degrees", "32 bits"],
)
def test_values_of_few_of_many_bits_are_stretched(tmp_path, low, high, dtype):
    ramp = np.linspace(low, high, 6000).reshape(60, 100).astype(dtype)
    ramp[0, 0] = ramp.max()  # a pixel that is broken changes nothing
    found = np.asarray(open_image(saved(tmp_path / "a.tif", ramp)))[..., 0].astype(float)
    expected = np.linspace(0, 255, 6000).reshape(60, 100)
    assert abs(found - expected)[1:].max() < 2


def test_one_range_for_a_folder_keeps_what_is_brighter_in_one_image(tmp_path):
    rng = np.random.default_rng(0)
    for k, high in enumerate((1000, 3000)):
        values = rng.integers(0, high, (60, 80)).astype(np.uint16)
        saved(tmp_path / f"{k}.png", values)
    saved(tmp_path / "eight.png", np.zeros((60, 80), np.uint8))
    names = list_images(tmp_path)
    span = folder_span(tmp_path, names)
    assert span[0] < 10
    assert 2900 < span[1] <= 3000
    own, common = ([open_image(tmp_path / f"{k}.png", s) for k in (0, 1)] for s in (None, span))
    means = [[np.asarray(image).mean() for image in images] for images in (own, common)]
    assert abs(means[0][0] - means[0][1]) < 5
    assert means[1][1] > 2.5 * means[1][0]
    assert folder_span(tmp_path, ["eight.png", "none.png"]) is None


def test_values_that_are_not_finite_are_black_and_white(tmp_path):
    values = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    values[0, :3] = np.nan, np.inf, -np.inf
    found = np.asarray(open_image(saved(tmp_path / "a.tif", values)))[..., 0]
    assert found[0, :3].tolist() == [0, 255, 0]
    assert found[5, 5] > 100


def test_exif_rotation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg")[1] == (40, 30)


@pytest.mark.parametrize(
    ("size", "resize_max", "expected"),
    [
        ((471, 313), 300, (300, 199)),
        ((313, 471), 300, (199, 300)),
        ((471, 313), None, (471, 313)),
        ((471, 313), 471, (471, 313)),
        ((471, 313), 1600, (471, 313)),  # never enlarged
        ((5000, 1), 100, (100, 1)),  # never of no height
    ],
)
def test_fit_limits_the_longest_edge(size, resize_max, expected):
    assert fit(size, resize_max) == expected


def test_fit_rounds_as_hloc_does():
    for width in range(1025, 1400, 7):
        for height in range(100, width, 11):
            scale = 1024 / width
            expected = (round(width * scale), round(height * scale))
            assert fit((width, height), 1024) == expected, (width, height)


def test_a_reduced_image_tells_its_original_size_and_is_smoothed(tmp_path):
    stripes = np.zeros((313, 471, 3), np.uint8)
    stripes[:, ::2] = 255  # sampled without smoothing, these would alias
    image, size = read_image(saved(tmp_path / "a.png", stripes), resize_max=118)
    assert size == (471, 313)
    assert image.shape == (3, 78, 118)
    assert image.std() < 0.05
    assert abs(image.mean() - 0.5) < 0.01


def test_images_are_listed_below_folders_sorted_with_slashes(tmp_path):
    for name in ("b.JPG", "db/sub/a.png", "db/z.webp", "a.txt", "db/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert list_images(tmp_path) == ["b.JPG", "db/sub/a.png", "db/z.webp"]


def test_links_are_followed_once_and_what_a_run_made_is_left_out(tmp_path, colours):
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    made, hidden = photos / "out" / "images", photos / ".thumbnails"
    for folder in (photos / "a", elsewhere / "deep", made, hidden):
        folder.mkdir(parents=True)
        saved(folder / "1.png", colours[:4, :4])
    saved(photos / "._a.png", colours[:4, :4])
    (photos / "out" / "dense.json").write_text("{}")
    (photos / "linked").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "back").symlink_to(photos, target_is_directory=True)
    (photos / "again").symlink_to(photos / "a", target_is_directory=True)
    assert list_images(photos) == ["a/1.png", "linked/deep/1.png"]
    assert list_images(photos / "out") == ["images/1.png"]  # asked for by its own name


def test_images_that_cannot_be_read_are_counted_and_named(tmp_path, colours, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("a.HEIC", "b.heic", "c.dng", "d.cr2", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(ImageError, match=r"4 images cannot be read here .*pip install pillow-heif"):
        list_images(tmp_path)
    saved(tmp_path / "e.png", colours[:4, :4])
    assert list_images(tmp_path) == ["e.png"]
    assert "(1 .cr2, 1 .dng, 2 .heic: a.HEIC, b.heic, c.dng and 1 more)" in caplog.text
    assert "save the others as JPEG or PNG" in caplog.text


def test_heic_is_an_image_where_something_reads_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=list))
    (tmp_path / "a.HEIC").touch()
    assert list_images(tmp_path) == ["a.HEIC"]


def test_heic_is_read_though_no_folder_was_listed(tmp_path, colours):
    """By a process of its own: dense stereo and exports begin with a model's names."""
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not here: no HEIC is read")
    image = Image.fromarray(colours)
    heif.from_pillow(image).save(tmp_path / "a.heic", quality=90)
    lines = "from pathlib import Path", "from d2_hloc.core.images import open_image"
    program = "\n".join([*lines, "print(open_image(Path('a.heic')).size)"])
    command = sys.executable, "-c", program
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout == "(471, 313)\n"


READS_AVIF = "avif" in features.modules and features.check("avif")


@pytest.mark.skipif(not READS_AVIF, reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path, colours):
    saved(tmp_path / "a.avif", colours, quality=100)
    assert list_images(tmp_path) == ["a.avif"]
    assert open_image(tmp_path / "a.avif").size == (471, 313)


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(ImageError, match="photos: there is no such folder of images"):
        list_images(tmp_path / "photos")
    (tmp_path / "a.txt").touch()
    with pytest.raises(ImageError, match=r"holds no image \(\.bmp, \.jpeg, \.jpg,"):
        list_images(tmp_path)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"none\.png: there is no such image"):
        open_image(tmp_path / "none.png")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.png: cannot be read as an image") as error:
        open_image(tmp_path / "a.png")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".ppm", ".tif", ".webp"])
def test_half_an_image_does_not_count_as_one(tmp_path, colours, suffix):
    path = saved(tmp_path / f"a{suffix}", colours)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match="cannot be read as an image"):
        open_image(path)


def test_an_image_of_absurd_size_is_refused_before_it_fills_the_memory(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 60000 60000 255\n")
    with pytest.raises(ImageError, match=r"a\.ppm: cannot be read as an image \(Image size"):
        open_image(tmp_path / "a.ppm")


def test_luma_weighs_colours_as_pillow_does():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (31, 47, 3), dtype=np.uint8))
    expected = np.asarray(image.convert("L")).astype(float) / 255
    np.testing.assert_allclose(luma(to_tensor(image)).numpy(), expected, atol=1 / 255)


def test_a_pipe_or_device_is_no_image_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(ImageError, match=rf"{name}: is a pipe, a socket or a device"):
            open_image(tmp_path / name)
