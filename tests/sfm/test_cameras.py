"""Intrinsics from a file: read in both forms, and refused where they cannot be meant."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from synthetic import synthesize

from d2_hloc.sfm.cameras.camera_lines import CameraError
from d2_hloc.sfm.cameras.intrinsics import Intrinsics, read_intrinsics
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


def known(path, names):
    return Intrinsics.read(path).among(names)


def test_stars_stand_for_all_images_and_for_those_of_a_folder(path):
    path.write_text("* PINHOLE 64 48 1 1 32 24\na/* PINHOLE 64 48 2 2 32 24\n" + LINE)
    names = ["a.jpg", "b.jpg", "c/d.jpg", "a/1.jpg", "a/b/2.jpg"]
    found = known(path, names)
    assert {n: c.focal_length_x for n, c in found.items()} == dict(
        zip(names, (50, 1, 1, 2, 2), strict=True)
    )
    assert found["a/1.jpg"].camera_id == found["a/b/2.jpg"].camera_id  # one camera
    assert found["b.jpg"].camera_id != found["a.jpg"].camera_id


@pytest.mark.parametrize("name", ["a*.jpg", "a/*.jpg", "*/a.jpg", "*/*"])
def test_other_patterns_are_refused(path, name):
    path.write_text(LINE.replace("a.jpg", name))
    with pytest.raises(CameraError, match=r"is neither \* nor folder/\*"):
        read_intrinsics(path)


def test_what_matches_nothing_is_named(path, tmp_path, caplog):
    path.write_text(LINE + LINE.replace("a.jpg", "B.JPG") + LINE.replace("a.jpg", "z.jpg"))
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    cameras_of(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], Intrinsics.read(path))
    assert "names that match no image here (2): B.JPG (there is b.jpg), z.jpg" in caplog.text
    assert "images that are not in it, and guessed (2): b.jpg, c.jpg" in caplog.text
    caplog.clear()
    known = replace(Intrinsics.read(path), elsewhere=frozenset(["B.JPG", "z.jpg"]))
    cameras_of(tmp_path, ["a.jpg"], known)
    assert not caplog.text  # queries and the model's images may share a file


@pytest.mark.parametrize("as_text", [False, True])
def test_a_colmap_model_gives_its_cameras(tmp_path, as_text):
    scene = synthesize(tmp_path, cameras_of_rig=1)
    (scene.model.write_text if as_text else scene.model.write)(tmp_path)
    files = "cameras.txt" if as_text else "cameras.bin"
    for path in (tmp_path, tmp_path / files):
        found = known(path, ["view/1.jpg", "view/2.jpg"])
        assert found["view/1.jpg"].params.tolist() == [1280.0, 1280.0, 512.0, 384.0]
        assert {c.camera_id for c in found.values()} == {1}
        assert found["view/1.jpg"].has_prior_focal_length


TRANSFORMS = {
    "camera_model": "OPENCV",
    "w": 64,
    "h": 48,
    "fl_x": 50.0,
    "fl_y": 51.0,
    "cx": 32.5,
    "cy": 24.0,
    "k1": 0.1,
    "frames": [{"file_path": "images/a.jpg"}, {"file_path": "./images/sub/b", "fl_x": 60.0}],
}


def test_a_transforms_json_gives_shared_and_own_cameras(tmp_path):
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(TRANSFORMS))
    found = known(path, ["a.jpg", "sub/b.png", "c.jpg"])
    assert found["a.jpg"].params.tolist() == [50.0, 51.0, 32.5, 24.0, 0.1, 0.0, 0.0, 0.0]
    assert found["sub/b.png"].params[0] == 60.0
    assert found["a.jpg"].camera_id != found["sub/b.png"].camera_id
    assert list(found) == ["a.jpg", "sub/b.png"]


def test_an_angle_of_view_is_a_focal_length(tmp_path):
    path = tmp_path / "transforms.json"
    frames = [{"file_path": f"{k}.png"} for k in range(2)]
    path.write_text(json.dumps({"camera_angle_x": np.pi / 2, "w": 64, "h": 48, "frames": frames}))
    found = known(path, ["0.png", "1.png"])
    assert found["0.png"].model_name == "PINHOLE"
    assert found["0.png"].params.tolist() == pytest.approx([32, 32, 32, 24])
    assert found["0.png"].camera_id == found["1.png"].camera_id


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"frames": None}, "is no transforms.json of nerfstudio's"),
        ({"frames": []}, "holds no frame"),
        ({"w": None}, "frame images/a.jpg: w is missing"),
        ({"fl_x": "wide"}, "fl_x is no number"),
        ({"fl_x": 0, "fl_y": 0}, "has neither fl_x nor camera_angle_x"),
        ({"fl_x": -5}, "a focal length of -5 is not from"),
        ({"camera_model": "EQUIRECTANGULAR"}, "the camera_model 'EQUIRECTANGULAR' is not of"),
        ({"frames": [{"file_path": "../../a.jpg"}]}, "leads out of the folder"),
    ],
)
def test_a_transforms_json_that_cannot_be_meant_is_named(tmp_path, change, sentence):
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(TRANSFORMS | change))
    with pytest.raises(ValueError, match=rf"transforms\.json.*{sentence}"):
        read_intrinsics(path)
