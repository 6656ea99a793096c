"""Two-view geometry on points of known poses."""

import dataclasses

import numpy as np
import pytest
import torch
from planted_views import camera, degrees, identity, pose, scene

from d2_hloc.core.pixels import to_colmap
from d2_hloc.core.structs import Matches
from d2_hloc.matching.options import GuidedOptions
from d2_hloc.sfm.options import VerificationOptions
from d2_hloc.sfm.two_view import Config, estimate_two_view, matched_points, verify_pair
from d2_hloc.sfm.verification import PairToVerify, guide_of, verify_one

POSELIB = VerificationOptions(estimator="poselib")
OPTIONS = VerificationOptions(estimator="poselib", max_error=2.0)


def test_known_focal_lengths_give_the_pose_and_all_of_colmaps_geometry():
    cameras = camera(), camera(800.0)
    xy0, xy1, is_right = scene(pose(), cameras, outliers=200)
    found = verify_pair(xy0, xy1, identity(len(xy0)), cameras, OPTIONS)
    assert found.config == Config.CALIBRATED
    assert degrees(found.cam2_from_cam1.rotation, pose().rotation) < 0.3
    direction = found.cam2_from_cam1.translation
    truth = pose().translation / np.linalg.norm(pose().translation)
    assert direction @ truth / np.linalg.norm(direction) > 0.999
    right = set(np.flatnonzero(is_right))
    kept = set(found.inlier_matches[:, 0].tolist())
    assert len(kept & right) >= 0.95 * len(right)
    assert len(kept - right) <= 10
    assert found.E.shape == found.F.shape == (3, 3)
    assert 0.05 < found.tri_angle < 0.6


def test_guessed_focal_lengths_give_a_fundamental_matrix_and_a_good_rotation():
    true = camera(900.0), camera(700.0, camera_id=2)
    xy0, xy1, is_right = scene(pose((1.0, 0.1, 0.6)), true, outliers=100, count=200)
    guesses = camera(1228.8, is_known=False), camera(1228.8, is_known=False, camera_id=2)
    found = verify_pair(xy0, xy1, identity(len(xy0)), guesses, OPTIONS)
    assert found.config == Config.UNCALIBRATED
    assert np.isin(np.flatnonzero(is_right), found.inlier_matches[:, 0]).mean() > 0.9
    assert degrees(found.cam2_from_cam1.rotation, pose().rotation) < 5


def test_one_camera_of_unknown_focal_length():
    true = camera(900.0), camera(900.0)
    xy0, xy1, is_right = scene(pose((1.0, 0.1, 0.6)), true, outliers=50)
    guess = camera(1228.8, is_known=False)
    found = verify_pair(xy0, xy1, identity(len(xy0)), (guess, guess), OPTIONS)
    assert found.config == Config.UNCALIBRATED
    assert np.isin(np.flatnonzero(is_right), found.inlier_matches[:, 0]).mean() > 0.9


def test_wrong_known_focal_lengths_do_not_count():
    true = camera(900.0), camera(900.0)
    xy0, xy1, _ = scene(pose((0.6, 0.3, 0.9)), true, count=300, depth=3.5, noise=0.1)
    wrong = camera(2500.0), camera(400.0)
    found = verify_pair(xy0, xy1, identity(len(xy0)), wrong, OPTIONS)
    assert found.config == Config.UNCALIBRATED


def test_a_plane_is_planar():
    cameras = camera(), camera()
    xy0, xy1, _ = scene(pose(), cameras, depth=0.0, outliers=60)
    found = verify_pair(xy0, xy1, identity(len(xy0)), cameras, OPTIONS)
    assert found.config == Config.PLANAR
    assert found.tri_angle > 0.05
    assert found.H is not None


@pytest.mark.parametrize("is_known", [True, False])
def test_a_camera_that_only_turns_is_panoramic(is_known):
    cameras = camera(is_known=is_known), camera(is_known=is_known, camera_id=2)
    xy0, xy1, _ = scene(pose((0.0, 0.0, 0.0)), cameras, outliers=60)
    found = verify_pair(xy0, xy1, identity(len(xy0)), cameras, OPTIONS)
    assert found.config == Config.PANORAMIC
    assert found.tri_angle == 0
    assert degrees(found.cam2_from_cam1.rotation, pose().rotation) < 0.3


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_random_matches_have_no_geometry(is_known, seed):
    rng = np.random.default_rng(seed)
    xy0, xy1 = rng.uniform([0, 0], [1024, 768], (2, 600, 2))
    cameras = camera(is_known=is_known), camera(is_known=is_known)
    found = verify_pair(xy0, xy1, identity(600), cameras, POSELIB)
    assert found.config == Config.DEGENERATE
    assert len(found.inlier_matches) == 0


@pytest.mark.parametrize("estimator", ["poselib", "colmap"])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_few_matches_have_no_geometry(estimator, count):
    xy0, xy1 = np.random.default_rng(0).uniform(0, 700, (2, 30, 2))
    options = VerificationOptions(estimator=estimator)
    found = verify_pair(xy0, xy1, identity(count), (camera(), camera()), options)
    assert found.config == Config.DEGENERATE


def test_colmaps_estimator_stays():
    cameras = camera(), camera()
    xy0, xy1, is_right = scene(pose(), cameras, outliers=30)
    options = VerificationOptions(estimator="colmap")
    found = verify_pair(xy0, xy1, identity(len(xy0)), cameras, options)
    assert found.config == Config.CALIBRATED
    assert np.isin(np.flatnonzero(is_right), found.inlier_matches[:, 0]).mean() > 0.9


def test_the_same_seed_gives_the_same_geometry():
    cameras = camera(), camera()
    xy0, xy1, _ = scene(pose(), cameras, outliers=300)
    found = [
        verify_pair(xy0, xy1, identity(len(xy0)), cameras, OPTIONS, seed=7).inlier_matches
        for _ in range(2)
    ]
    assert np.array_equal(*found)


def test_matches_index_keypoints():
    cameras = camera(), camera()
    xy0, xy1, _ = scene(pose(), cameras)
    order = np.random.default_rng(3).permutation(len(xy1))
    pairs = np.stack([np.arange(len(xy0)), np.argsort(order)], axis=1)
    matches = Matches(pairs=torch.from_numpy(pairs), scores=torch.ones(len(pairs)))
    found = verify_pair(torch.from_numpy(xy0), xy1[order], matches, cameras, OPTIONS)
    assert len(found.inlier_matches) > 100
    assert {tuple(m) for m in found.inlier_matches.tolist()} <= {tuple(m) for m in pairs.tolist()}


@pytest.mark.parametrize("is_known", [True, False])
def test_a_start_is_adjusted_to_the_points(is_known):
    cameras = camera(is_known=is_known), camera(is_known=is_known, camera_id=2)
    rough, exact = (scene(pose(), cameras, noise=n, count=300) for n in (2.0, 0.1))
    pairs = identity(len(rough[0]))
    first = verify_pair(rough[0], rough[1], pairs, cameras, POSELIB)
    points = matched_points(exact[:2], pairs, cameras)
    again, inliers = estimate_two_view(
        VerificationOptions(estimator="poselib", max_error=0.5), points, start=first
    )
    assert inliers.mean() > 0.95
    if is_known:
        assert degrees(again.cam2_from_cam1.rotation, pose().rotation) < 0.1


def test_auto_leaves_guessed_focal_lengths_to_colmap():
    for is_known in (True, False):
        cameras = camera(is_known=is_known), camera(is_known=is_known, camera_id=2)
        xy0, xy1, _ = scene(pose(), cameras, outliers=30)
        found, expected = (
            verify_pair(xy0, xy1, identity(len(xy0)), cameras, VerificationOptions(estimator=e))
            for e in ("auto", "poselib" if is_known else "colmap")
        )
        assert np.array_equal(found.inlier_matches, expected.inlier_matches)
        assert found.config == expected.config


def test_the_package_offers_it():
    import d2_hloc

    assert d2_hloc.verify_pair is verify_pair
    assert d2_hloc.VerificationOptions is VerificationOptions
    with pytest.raises(AttributeError, match="verify_pears"):
        d2_hloc.verify_pears  # noqa: B018


@pytest.mark.parametrize("turns", [True, False])
def test_matches_of_a_plane_and_of_a_camera_that_turns_are_guided_by_the_homography(turns):
    cameras = camera(), camera()
    relative = pose((0.0, 0.0, 0.0)) if turns else pose()
    xy0, xy1, _ = scene(relative, cameras, depth=2.0 if turns else 0.0, noise=0.0)
    descriptors = np.linalg.qr(np.random.default_rng(0).normal(size=(len(xy0), len(xy0))))[0]
    pair = PairToVerify(
        keypoints=(to_colmap(xy0), to_colmap(xy1)),
        cameras=cameras,
        pairs=identity(len(xy0))[::2],
        descriptors=(descriptors, descriptors),
    )
    guided = dataclasses.replace(OPTIONS, guided=GuidedOptions(enabled=True))
    found = verify_one(guided, pair, 0, 2.0)
    assert found.config == (Config.PANORAMIC if turns else Config.PLANAR)
    assert guide_of(pair, found)[1][0] == "H"
    assert (found.inlier_matches[:, 0] == found.inlier_matches[:, 1]).all()
    assert len(found.inlier_matches) > 0.9 * len(xy0)
