"""Calibrations as the Image Matching Challenge gives them."""

import h5py
import numpy as np
import pytest

from d2_hloc.sfm.poses_file import read_calibrations


def test_reads_cameras_by_image(tmp_path):
    r = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    with h5py.File(tmp_path / "calibration_1_2.h5", "w") as file:
        file["K"], file["R"], file["T"] = np.diag([500.0, 510, 1]), r, np.array([[1.0], [2], [3]])
    ((name, (k, pose)),) = read_calibrations(tmp_path).items()
    assert name == "1_2.jpg"
    assert k[1, 1] == 510
    np.testing.assert_allclose(pose.rotation.matrix(), r, atol=1e-12)
    assert pose.translation.tolist() == [1, 2, 3]


def test_what_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no calibration_\*\.h5"):
        read_calibrations(tmp_path)
    (tmp_path / "calibration_a.h5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"calibration_a\.h5: does not hold K, R and T"):
        read_calibrations(tmp_path)
