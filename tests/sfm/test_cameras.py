"""Intrinsics from a file: read in both forms, and refused where they cannot be meant."""

import pytest

from d2_hloc.sfm.cameras.intrinsics import CameraError, Intrinsics, read_intrinsics
from d2_hloc.sfm.cameras.sharing import cameras_of

LINE = "a.jpg PINHOLE 64 48 50 50 32 24\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "intrinsics.txt"


def test_both_forms_are_the_same_camera(path):
    path.write_text(LINE + "b.jpg 64 48 50 50 31.5 23.5\n")
    cameras = read_intrinsics(path)
    assert cameras["a.jpg"].params.tolist() == cameras["b.jpg"].params.tolist()
    assert cameras["a.jpg"].has_prior_focal_length


def test_a_byte_order_mark_costs_no_line(path):
    path.write_bytes(b"\xef\xbb\xbf" + LINE.encode())
    assert list(read_intrinsics(path)) == ["a.jpg"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a.jpg PINHOLE 64 48 -5 50 32 24", "line 1: a focal length of -5 is not from 0.064 to"),
        ("a.jpg PINHOLE 64 48 0 50 32 24", "line 1: a focal length of 0 is not from 0.064 to 6"),
        ("a.jpg PINHOLE 64 48 1e308 50 32 24", "line 1: a focal length of 1e.308 is not from"),
        ("a.jpg PINHOLE 64 48 50 50 1e300 24", "line 1: a principal point at 1e.300 is not from"),
        ("a.jpg 64 48 50 50 1e300 24", "line 1: a principal point at 1e.300 is not from -640 to"),
        ("a.jpg PINHOLE 64 48 nan 50 32 24", "line 1: not all of its numbers are finite"),
        ("a.jpg PINHOLE 64 48 50 50 inf 24", "line 1: not all of its numbers are finite"),
        ("a.jpg PINHOLE inf 48 50 50 32 24", "line 1: inf x 48 are not whole numbers"),
        ("a.jpg PINHOLE 64 nan 50 50 32 24", "line 1: 64 x nan are not whole numbers"),
        ("a.jpg PINHOLE 64 0 50 50 32 24", "line 1: 64 x 0 are not whole numbers"),
        ("a.jpg PINHOLE 64 1e30 50 50 32 24", "line 1: 64 x 1e.30 are not whole numbers"),
        ("a.jpg PINHOLE 64 48.5 50 50 32 24", "line 1: 64 x 48.5 are not whole numbers"),
        ("a.jpg SIMPLE_RADIAL 64 48 50 32 24 -1e9", "line 1: a distortion of -1e.09 is not from"),
        ("a.jpg PINHOLE 64 48 50 50 32", "line 1: PINHOLE does not take 3 parameters"),
        ("a.jpg ROUND 64 48 50", "line 1: expected 'name MODEL width height params...'"),
        ("a.jpg", "line 1: expected 'name MODEL width height params...'"),
        (LINE + LINE.replace("50", "51"), "line 2: gives a.jpg another camera than a line before"),
        ("# nothing\n\n", "holds no camera"),
    ],
)
def test_what_cannot_be_meant_is_named(path, text, sentence):
    path.write_text(text)
    with pytest.raises(CameraError, match=rf"intrinsics\.txt.*{sentence}"):
        read_intrinsics(path)


def test_a_file_that_names_none_of_the_images_is_refused(path, tmp_path):
    path.write_text(LINE)
    with pytest.raises(CameraError, match=r"names none of the images; its first is a\.jpg"):
        cameras_of(tmp_path, ["images/a.jpg"], Intrinsics.read(path))
