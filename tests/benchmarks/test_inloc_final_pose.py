"""Poses from all points that an image shows, where those are planted."""

import numpy as np
import pytest

from d2_hloc.benchmarks.inloc.final_pose import pose_of_visible_points, visible_points
from d2_hloc.core.pixels import from_colmap
from d2_hloc.core.pose_metrics import camera_centre
from d2_hloc.files.colmap import pycolmap

CAMERA = pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[500, 510, 320, 240])
TRUE = pycolmap.Rigid3d(pycolmap.Rotation3d([0.02, -0.03, 0.01, 0.9993]), [0.1, -0.2, 0.3])


@pytest.fixture
def points():
    """300 points before the camera, 20 behind it, and 5 that are not known."""
    rng = np.random.default_rng(0)
    before = rng.uniform([-2, -1.5, 4], [2, 1.5, 9], (300, 3))
    behind = rng.uniform([-2, -1.5, -9], [2, 1.5, -4], (20, 3))
    return np.concatenate([before, behind, np.full((5, 3), np.nan)])


def moved(centimetres):
    return pycolmap.Rigid3d(TRUE.rotation, TRUE.translation + np.array([centimetres / 100, 0, 0]))


def centre_of(pose):
    return camera_centre(pose.rotation.matrix(), pose.translation)


def project(pose, xyz):
    return from_colmap(CAMERA.img_from_cam(pose * xyz))


def test_only_points_in_the_image_are_looked_for(points):
    index, expected = visible_points(TRUE, CAMERA, points)
    assert index.max() < 300
    assert len(index) > 150
    np.testing.assert_allclose(expected, project(TRUE, points[index]))
    assert ((expected >= 0) & (expected <= [639, 479])).all()


def test_a_pose_comes_to_where_the_points_are_seen_in_spite_of_wrong_ones(points):
    asked = []

    def search(index, expected):
        asked.append(np.linalg.norm(expected - project(TRUE, points[index]), axis=1).mean())
        seen = project(TRUE, points[index])
        seen[::5] += [6, -5]  # found in the wrong place
        return seen, np.arange(len(index)) % 3 > 0  # and some are not found

    pose = pose_of_visible_points(moved(5), CAMERA, points, search)
    assert np.linalg.norm(centre_of(pose) - centre_of(TRUE)) < 1e-4
    assert asked[0] > 2  # pixels
    assert asked[1] < 0.02  # the second round begins at the first's


def test_a_pose_stays_where_nothing_is_found(points):
    pose = moved(5)
    found = pose_of_visible_points(pose, CAMERA, points, lambda i, xy: (xy, np.zeros(len(i), bool)))
    assert found.matrix().tolist() == pose.matrix().tolist()
    nothing = np.empty((0, 3))
    found = pose_of_visible_points(
        pose, CAMERA, nothing, lambda i, xy: (xy, np.zeros(len(i), bool))
    )
    assert found.matrix().tolist() == pose.matrix().tolist()
