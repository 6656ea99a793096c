"""Queries of an exact model are where they were."""

import dataclasses

import numpy as np
import pytest
from synthetic import synthesize, write_features, write_matches

from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.outputs import Outputs
from d2_hloc.refinement.matches import FoundPlaces
from d2_hloc.sfm import pose_errors, pose_refit
from d2_hloc.sfm.correspondences import (
    Observations,
    _distinct,
    covisible_clusters,
    observations,
)
from d2_hloc.sfm.options import LocalizationOptions
from d2_hloc.sfm.pnp import FeaturedModel, MatchedQueries, localize
from d2_hloc.sfm.poses_file import read_poses, write_poses

OPTIONS = LocalizationOptions()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A model whose images are also its queries, with matches from each to all others."""
    scene = synthesize(tmp_path_factory.mktemp("synthetic"))
    names = sorted(scene.cameras)
    both_ways = [(a, b) for a in names for b in names if a != b]
    path = scene.matches.with_name("queries.h5")
    write_matches(path, both_ways, scene.ids)
    return dataclasses.replace(scene, pairs=both_ways, matches=path)


def run(scene, tmp_path, options=OPTIONS, **changes):
    features, refine = changes.pop("model_features", scene.features), changes.pop("refine", None)
    model = FeaturedModel(reconstruction=scene.model, features=features)
    queries = {
        "cameras": scene.cameras,
        "pairs": scene.pairs,
        "features": scene.features,
        "matches": scene.matches,
    }
    queries = MatchedQueries(**(queries | changes))
    return localize(options, model, queries, Outputs(tmp_path), refine)


@pytest.mark.parametrize("clustering", [False, True])
def test_places_every_query(scene, tmp_path, clustering):
    options = LocalizationOptions(covisibility_clustering=clustering)
    found = run(scene, tmp_path, options)
    truth = pose_errors.model_poses(scene.model)
    poses = read_poses(tmp_path / "poses.txt")
    errors = pose_errors.pose_errors(poses, truth)
    assert len(found) == len(truth)
    assert max(e[0] for e in errors.values()) < 1e-4
    assert max(e[1] for e in errors.values()) < 1e-2


def test_says_why_a_query_has_no_pose(scene, tmp_path):
    cameras = scene.cameras
    first, second, third, *_ = sorted(cameras)
    pairs = [p for p in scene.pairs if p[0] == first]
    chosen = {first: cameras[first], second: cameras[second], "unknown.jpg": cameras[third]}
    found = {r.name: r for r in run(scene, tmp_path, pairs=pairs, cameras=chosen)}
    assert found[first].reason == ""
    assert found[second].reason == "it was matched with no image of the model"
    assert found["unknown.jpg"].reason == "it has no features"
    assert list(read_poses(tmp_path / "poses.txt")) == [first]
    assert "it has no features" in (tmp_path / "poses.csv").read_text()


def test_refuses_features_that_the_model_was_not_made_from(scene, tmp_path):
    other = tmp_path / "features.h5"
    write_features(other, {n: np.zeros((3, 2), np.float32) for n in scene.cameras})
    with pytest.raises(features_h5.StorageError, match="triangulate the model from these features"):
        run(scene, tmp_path, model_features=other)


def test_clusters_are_connected_by_points():
    ids = {"a": [1, 2, -1], "b": [3, -1], "c": [2, 4]}
    seen = {
        name: Observations(point_ids=np.array(i), projected=np.zeros((len(i), 2)))
        for name, i in ids.items()
    }
    assert covisible_clusters(["a", "b", "c"], seen) == [["a", "c"], ["b"]]


def test_points_are_observed_where_they_project(scene):
    for name, found in observations(scene.model, scene.features).items():
        keypoints = features_h5.read_features(scene.features, name).keypoints.numpy()
        has_point = found.point_ids >= 0
        np.testing.assert_allclose(found.projected[has_point], keypoints[has_point], atol=1e-2)
        assert np.isnan(found.projected[~has_point]).all()


def nearest(xy, among):
    """Index of the nearest of `among` to each place, and its distance."""
    distances = np.linalg.norm(xy[:, None] - among, axis=2)
    return distances.argmin(axis=1), distances.min(axis=1)


def test_a_refiner_moves_keypoints_to_the_points(scene, tmp_path):
    """Keypoints that are off by pixels are brought back by a refiner that knows the truth."""
    wrong, rng = tmp_path / "wrong.h5", np.random.default_rng(0)
    exact = {
        n: features_h5.read_features(scene.features, n).keypoints.numpy() for n in scene.cameras
    }
    shifted = {n: xy + rng.normal(0, 3, xy.shape).astype(np.float32) for n, xy in exact.items()}
    write_features(wrong, shifted)

    def refine(query, image, xy, projected):
        assert nearest(projected, exact[image])[1].max() < 1e-2
        index, _ = nearest(xy, shifted[query])
        is_found = np.arange(len(index)) % 10 > 0
        deviations = np.where(is_found, 0.1, np.nan)
        return FoundPlaces(xy=exact[query][index], is_found=is_found, deviations=deviations)

    truth, known = pose_errors.model_poses(scene.model), {}
    for name, camera in scene.cameras.items():
        known[name] = pycolmap.Camera(camera.todict() | {"has_prior_focal_length": True})
    worst = []
    for chosen in (None, refine):
        run(scene, tmp_path, features=wrong, refine=chosen, cameras=known)
        errors = pose_errors.pose_errors(read_poses(tmp_path / "poses.txt"), truth)
        worst.append(max(e[0] for e in errors.values()))
    assert worst[1] < 1e-4
    assert worst[0] > 100 * worst[1]


def test_the_few_that_are_off_do_not_move_the_pose(scene, tmp_path, monkeypatch):
    """One keypoint in five is pixels away, and yet within the largest error of an inlier."""
    features, rng = tmp_path / "features.h5", np.random.default_rng(0)
    moved = {}
    for name in scene.cameras:
        xy = features_h5.read_features(scene.features, name).keypoints.numpy()
        off = rng.random(len(xy)) < 0.2
        noise = np.where(off[:, None], 4.0, 0.05) * np.abs(rng.normal(1, 0.3, xy.shape))
        moved[name] = (xy + noise).astype(np.float32)
    write_features(features, moved)
    known = {
        name: pycolmap.Camera(camera.todict() | {"has_prior_focal_length": True})
        for name, camera in scene.cameras.items()
    }
    truth, means = pose_errors.model_poses(scene.model), []
    for factor in (1e9, 5.0):
        monkeypatch.setattr(pose_refit, "OUTLIER_FACTOR", factor)
        run(scene, tmp_path, features=features, cameras=known)
        errors = pose_errors.pose_errors(read_poses(tmp_path / "poses.txt"), truth)
        means.append(np.mean([e[0] for e in errors.values()]))
    assert means[1] < 0.9 * means[0]


def test_a_place_that_was_moved_goes_before_others():
    keys = np.array([[0, 7], [1, 8], [0, 7], [0, 7], [0, 9]])
    xy = np.array([[0.0, 0], [5, 5], [1, 1], [3, 3], [0, 0]])
    deviations = np.array([np.nan, np.nan, 1, 3, np.nan])
    found = _distinct(keys, xy, np.array([False, False, True, True, False]), deviations)
    assert found.point_ids.tolist() == [7, 9, 8]
    assert found.xy.tolist() == [[2, 2], [0, 0], [5, 5]]
    np.testing.assert_array_equal(found.deviations, [2, np.nan, np.nan])


def test_poses_survive_a_round_trip(scene, tmp_path):
    poses = pose_errors.model_poses(scene.model)
    write_poses(tmp_path / "poses.txt", poses)
    for name, pose in read_poses(tmp_path / "poses.txt").items():
        np.testing.assert_allclose(pose.matrix(), poses[name].matrix(), atol=1e-9)


def test_a_wrong_line_of_poses_is_named(tmp_path):
    path = tmp_path / "poses.txt"
    path.write_text("a.jpg 1 0 0 0 0 0 0\nb.jpg 1 0 0\n")
    with pytest.raises(ValueError, match=r"poses\.txt, line 2"):
        read_poses(path)
