"""Two-view geometry of matches that are refined first and spread, with a search that knows."""

import numpy as np
from planted_views import camera, degrees, identity, pose, scene

from d2_hloc.core.pixels import to_colmap
from d2_hloc.refinement.options import SpreadingOptions
from d2_hloc.sfm.options import VerificationOptions
from d2_hloc.sfm.two_view import Config
from d2_hloc.sfm.two_views.refined_pair import verify_refined
from d2_hloc.sfm.verification import PairToVerify, verify_one

POSELIB = VerificationOptions(estimator="poselib")
OFF, WINDOW = 3.0, 6.0  # pixels that keypoints are off, and that the search reaches


def planted(*, matched=60, wrong=120, depth=0.3):
    """A pair whose keypoints are off, a few of them matched; true places, and its search."""
    cameras, rng = (camera(), camera(800.0)), np.random.default_rng(4)
    xy0, true1, is_right = scene(pose(), cameras, count=500, outliers=wrong, noise=0.0, depth=depth)
    xy1 = true1 + np.where(is_right[:, None], rng.normal(0, OFF / 1.4, true1.shape), 0)
    order = {tuple(xy): place for xy, place in zip(xy0.tolist(), true1.tolist(), strict=True)}
    right = dict(zip(map(tuple, xy0.tolist()), is_right.tolist(), strict=True))

    def search(at0, at1, around):
        there = np.array([order[tuple(xy)] for xy in at0.tolist()])
        is_found = np.array([right[tuple(xy)] for xy in at0.tolist()])
        is_found &= np.linalg.norm(there - at1, axis=1) < WINDOW
        return np.where(is_found[:, None], there, at1), is_found

    pairs = identity(len(xy0))
    pairs = np.concatenate([pairs[:matched], pairs[~is_right]])
    keypoints = to_colmap(xy0), to_colmap(xy1)
    return PairToVerify(keypoints=keypoints, cameras=cameras, pairs=pairs), true1, search


def test_the_pose_is_surer_and_the_inliers_are_many_times_as_many():
    pair, true1, search = planted()
    raw = verify_one(POSELIB, pair, 0, 0.0)
    found = verify_refined(POSELIB, SpreadingOptions(reach=150.0), pair, search)
    assert found.geometry.config == Config.CALIBRATED
    errors = [degrees(g.cam2_from_cam1.rotation, pose().rotation) for g in (raw, found.geometry)]
    assert errors[1] < 0.1 < errors[0]
    assert len(found.inliers) > 200 > 2.5 * len(raw.inlier_matches)
    same = found.inliers[:, 0] == found.inliers[:, 1]
    places = found.keypoints1[found.inliers[same, 1]]
    assert np.abs(places - to_colmap(true1[found.inliers[same, 0]])).max() < 1e-6


def test_without_spreading_only_matches_remain():
    pair, _, search = planted()
    found = verify_refined(POSELIB, None, pair, search)
    given = set(map(tuple, pair.pairs.tolist()))
    assert len(found.inliers) >= 50
    assert set(map(tuple, found.inliers.tolist())) <= given


def test_matches_that_cannot_be_refined_are_verified_as_they_are():
    pair, _, _ = planted(wrong=0)

    def search(at0, at1, around):
        return at1, np.zeros(len(at0), bool)

    found = verify_refined(POSELIB, SpreadingOptions(reach=150.0), pair, search)
    assert found.geometry.config != Config.DEGENERATE
    assert np.array_equal(found.keypoints1, pair.keypoints[1])


def test_a_pair_without_matches_has_no_geometry():
    pair, _, search = planted(matched=0, wrong=0)
    found = verify_refined(POSELIB, SpreadingOptions(reach=150.0), pair, search)
    assert found.geometry.config == Config.DEGENERATE
    assert len(found.inliers) == 0
