"""Poses that are given: what is no pose is named, and so is what no model can be aligned to."""

import h5py
import numpy as np
import pytest

from d2_hloc.core.names import UnsafeName
from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.pose_errors import check_frame
from d2_hloc.sfm.poses_file import read_calibrations, read_poses, write_poses

POSE = "1 0 0 0 1 2 3"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "truth.txt"


def test_poses_come_back_and_quaternions_of_few_digits_become_unit(path):
    turned = pycolmap.Rotation3d(np.array([0.5, -0.5, 0.5, 0.5]))
    poses = {"b.jpg": pycolmap.Rigid3d(turned, [1, 2, 3]), "a.jpg": pycolmap.Rigid3d()}
    write_poses(path, poses)
    found = read_poses(path)
    assert sorted(found) == ["a.jpg", "b.jpg"]
    for name, pose in poses.items():
        np.testing.assert_allclose(found[name].matrix(), pose.matrix(), atol=1e-11)
    path.write_text("a.jpg 0.707 0 0.707 0 1 2 3\n")
    matrix = read_poses(path)["a.jpg"].rotation.matrix()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"a.jpg {POSE}\nb.jpg 1 0 0\n", "line 2: expected 'name qw qx qy qz tx ty tz'"),
        ("a.jpg 1 0 0 x 1 2 3", "line 1: expected 'name qw qx qy qz tx ty tz'"),
        ("a.jpg", "line 1: expected 'name qw qx qy qz tx ty tz'"),
        ("a.jpg 0 0 0 0 1 2 3", "line 1: its quaternion has the length 0, not 1"),
        ("a.jpg 2 0 0 0 1 2 3", "line 1: its quaternion has the length 2, not 1"),
        ("a.jpg nan 0 0 0 1 2 3", "line 1: its quaternion has the length nan, not 1"),
        ("a.jpg inf 0 0 0 1 2 3", "line 1: its quaternion has the length inf, not 1"),
        ("a.jpg 1 0 0 0 1 nan 3", "line 1: its translation 1 nan 3 is not from -1e.09 to 1e.09"),
        ("a.jpg 1 0 0 0 1 1e300 3", "line 1: its translation 1 1e.300 3 is not from"),
        (f"a.jpg {POSE}\n\na.jpg {POSE}\n", "line 3: gives the pose of a.jpg for the second time"),
    ],
)
def test_what_is_no_pose_is_named(path, text, sentence):
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"truth\.txt, {sentence}"):
        read_poses(path)


def test_names_that_lead_elsewhere_are_refused(path):
    path.write_text(f"../a.jpg {POSE}\n")
    with pytest.raises(UnsafeName, match=r"truth\.txt, line 1"):
        read_poses(path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"R": 2 * np.eye(3)}, "its R is not a rotation"),
        ({"R": np.diag([1, 1, -1])}, "its R is not a rotation"),
        ({"R": np.full((3, 3), np.nan)}, "its R is not a rotation"),
        ({"T": np.full(3, np.inf)}, "its translation inf inf inf is not from"),
        ({"T": np.zeros(2)}, "does not hold K, R and T"),
        ({"K": "text"}, "does not hold K, R and T"),
    ],
)
def test_a_calibration_that_is_none_is_named(tmp_path, changes, sentence):
    with h5py.File(tmp_path / "calibration_a.h5", "w") as file:
        for name, value in ({"K": np.eye(3), "R": np.eye(3), "T": np.zeros(3)} | changes).items():
            file[name] = value
    with pytest.raises(ValueError, match=rf"calibration_a\.h5: {sentence}"):
        read_calibrations(tmp_path)


@pytest.mark.parametrize(
    ("centres", "is_fine"),
    [
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], False),
        ([[0, 0, 0], [1, 1, 1], [3, 3, 3], [7, 7, 7]], False),
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], True),
        ([[0, 0, 0], [1, 1, 1]], True),  # others may join them
    ],
)
def test_cameras_at_one_place_or_on_one_line_are_told_before_a_run(centres, is_fine):
    poses = {str(k): pycolmap.Rigid3d(pycolmap.Rotation3d(), c) for k, c in enumerate(centres)}
    if is_fine:
        check_frame(poses, "truth.txt")
        return
    with pytest.raises(ValueError, match=r"truth\.txt: all its cameras are at one place or on one"):
        check_frame(poses, "truth.txt")
