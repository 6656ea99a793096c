"""Poses by places of which some are more certain than others."""

import numpy as np
import pytest
from planted_views import camera, pose

from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.pose_refit import ENOUGH, refit_pose


def planted(rng, count=80, points=0.0):
    """Points, places with errors of many sizes, and these; some places are wrong by far more."""
    seen_by, truth = camera(), pose()
    rays = rng.uniform([-0.5, -0.4], [0.5, 0.4], (count, 2))
    in_camera = np.c_[rays, np.ones(count)] * rng.uniform(3, 9, (count, 1))
    deviations = rng.choice([0.05, 0.5, 1.5], count)
    xy = seen_by.img_from_cam(in_camera) + deviations[:, None] * rng.normal(size=(count, 2))
    xy[:5] += 8
    xyz = np.asarray(truth.inverse() * (in_camera + points * rng.normal(size=(count, 3))))
    return seen_by, truth, xyz, xy, deviations


def distance(found, truth):
    return np.linalg.norm(found.inverse().translation - truth.inverse().translation)


def errors_of_both(points):
    """Median errors by pixels, and by deviations, where points are off by so much."""
    errors = []
    for seed in range(20):
        seen_by, truth, xyz, xy, deviations = planted(np.random.default_rng(seed), points=points)
        start = pycolmap.Rigid3d(truth.rotation, truth.translation + 0.01)
        everyone = np.ones(len(xyz), bool)
        found = [refit_pose(start, xy, xyz, everyone, seen_by, d) for d in (None, deviations)]
        errors.append([distance(pose, truth) for pose in found])
    return np.median(errors, axis=0)


def test_certain_places_decide():
    plain, weighted = errors_of_both(points=0.0)
    assert weighted < 0.6 * plain


def test_they_do_not_where_points_are_what_is_uncertain():
    plain, weighted = errors_of_both(points=0.02)
    assert weighted < 1.15 * plain


def test_what_is_not_known_does_not_count_where_enough_is():
    seen_by, truth, xyz, xy, deviations = planted(np.random.default_rng(0))
    everyone = np.ones(len(xyz), bool)
    known = np.arange(len(xyz)) >= len(xyz) - ENOUGH
    some = np.where(known, deviations, np.nan)
    xy[~known] += 3
    assert distance(refit_pose(truth, xy, xyz, everyone, seen_by, some), truth) < 0.01
    some[-1] = np.nan
    by_all = refit_pose(truth, xy, xyz, everyone, seen_by, some)
    np.testing.assert_array_equal(
        by_all.matrix(), refit_pose(truth, xy, xyz, everyone, seen_by).matrix()
    )


def test_exact_places_give_the_exact_pose():
    seen_by, truth, xyz, _, deviations = planted(np.random.default_rng(0))
    xy = seen_by.img_from_cam(np.asarray(truth * xyz))
    start = pycolmap.Rigid3d(truth.rotation, truth.translation + 0.01)
    found = refit_pose(start, xy, xyz, np.ones(len(xyz), bool), seen_by, deviations)
    np.testing.assert_allclose(found.matrix(), truth.matrix(), atol=1e-6)


def test_points_behind_the_camera_do_not_count():
    seen_by, truth, xyz, xy, deviations = planted(np.random.default_rng(0))
    xyz[:3] = np.asarray(truth.inverse() * np.array([[0, 0, -1.0], [1, 0, -2], [0, 0, 0]]))
    found = refit_pose(truth, xy, xyz, np.ones(len(xyz), bool), seen_by, deviations)
    assert distance(found, truth) < 0.02


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_leave_the_pose(count):
    seen_by, truth, xyz, xy, deviations = planted(np.random.default_rng(0))
    few = np.arange(len(xyz)) < count
    found = refit_pose(truth, xy, xyz, few, seen_by, deviations)
    np.testing.assert_array_equal(found.matrix(), truth.matrix())
