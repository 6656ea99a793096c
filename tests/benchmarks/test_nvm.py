"""Poses of VisualSFM's files: centres become translations, and what is no pose is named."""

import numpy as np
import pytest

from d2_hloc.benchmarks.aachen.nvm import read_nvm_poses

TURN = "0.7071067812 0 0.7071067812 0"  # 90 degrees about y
HEAD = "NVM_V3 \n\n"


def write(tmp_path, text):
    path = tmp_path / "model.nvm"
    path.write_text(text)
    return path


def test_the_centre_is_where_the_file_says(tmp_path):
    text = f"{HEAD}2\n./db/1.jpg 900 {TURN} 1 2 3 0 0\ndb/2.jpg 900 1 0 0 0 4 5 6 0 0\n\n7\n"
    poses = read_nvm_poses(write(tmp_path, text))
    assert sorted(poses) == ["db/1.jpg", "db/2.jpg"]
    for name, expected in (("db/1.jpg", [1, 2, 3]), ("db/2.jpg", [4, 5, 6])):
        pose = poses[name].matrix()
        np.testing.assert_allclose(-pose[:, :3].T @ pose[:, 3], expected, atol=1e-8)
    turned = poses["db/1.jpg"].rotation.matrix()
    np.testing.assert_allclose(turned @ [0, 0, 1], [1, 0, 0], atol=1e-8)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not an NVM file"),
        ("ply\n1\n", "is not an NVM file"),
        (HEAD + "many\n", "line 3: expected the number of cameras"),
        (HEAD + "-1\n", "says -1 cameras and holds 0"),
        (HEAD + 2 * f"a.jpg 900 {TURN} 1 2 3 0 0\n", "expected the number of cameras"),
        (HEAD + "2\n" + 2 * f"a.jpg 900 {TURN} 1 2 3 0 0\n", "line 5: gives the pose of a.jpg for"),
        (HEAD + f"2\na.jpg 900 {TURN} 1 2 3 0 0\n", "says 2 cameras and holds 1"),
        (HEAD + "1\na.jpg 900 1 0 0\n", "line 4: expected 'name focal qw"),
        (HEAD + f"1\na.jpg 900 {TURN} 1 x 3 0 0\n", "line 4: expected 'name focal qw"),
        (HEAD + f"1\na.jpg 900 {TURN} 1 nan 3 0 0\n", "line 4: expected 'name focal qw"),
        (HEAD + "1\na.jpg 900 2 0 0 0 1 2 3 0 0\n", "line 4: its quaternion has the length 2"),
    ],
)
def test_what_is_no_pose_is_named(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=rf"model\.nvm.*{sentence}"):
        read_nvm_poses(write(tmp_path, text))
