"""Observations that disagree with a model leave it, and what stays is more exact."""

import sys

import numpy as np
import pytest
from synthetic import synthesize

from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm import pose_errors
from d2_hloc.sfm.adjustment.outliers import (
    MAX_ERROR,
    adjust_without_outliers,
    drop_absurd,
    drop_wild_images,
    reprojection_errors,
)


@pytest.fixture
def scene(tmp_path):
    return synthesize(tmp_path)


def with_noise(scene, share, pixels, noise=0.1):
    """The exact model, its observations moved: all by a little, a share of them by more."""
    model, rng = pycolmap.Reconstruction(scene.model), np.random.default_rng(0)
    for image in model.images.values():
        for point2D in image.points2D:
            sigma = pixels if rng.random() < share else noise
            point2D.xy = point2D.xy + rng.normal(0, sigma, 2)
    return model


def position_error(model, scene):
    poses, truth = pose_errors.model_poses(model), pose_errors.model_poses(scene.model)
    errors = pose_errors.pose_errors(poses, truth, pose_errors.align(poses, truth))
    return np.mean([e[0] for e in errors.values()])


def test_errors_are_those_that_were_planted(scene):
    assert reprojection_errors(scene.model).max() < 1e-6
    errors = reprojection_errors(with_noise(scene, 0, 0, noise=1.0))
    assert np.sqrt((errors**2).mean() / 2) == pytest.approx(1, abs=0.05)


def test_the_few_that_are_wrong_leave(scene):
    model = with_noise(scene, 0.1, 3.0)
    before, errors = model.compute_num_observations(), reprojection_errors(model)
    left = adjust_without_outliers(model, 5.0)
    assert left == before - model.compute_num_observations()
    assert (errors > 0.6).sum() * 0.8 < left < (errors > 0.6).sum() * 1.3
    assert reprojection_errors(model).max() < 0.8
    disturbed = with_noise(scene, 0.1, 3.0)
    adjust_without_outliers(disturbed, 1000.0)  # nothing leaves
    pycolmap.bundle_adjustment(disturbed)
    assert position_error(model, scene) < 0.5 * position_error(disturbed, scene)


def test_where_all_are_alike_none_leaves(scene):
    model = with_noise(scene, 0, 0, noise=1.0)
    before = {n: p.matrix() for n, p in pose_errors.model_poses(model).items()}
    assert adjust_without_outliers(model, 5.0) == 0
    for name, pose in pose_errors.model_poses(model).items():
        np.testing.assert_array_equal(pose.matrix(), before[name])


def test_known_intrinsics_stay(scene):
    model = with_noise(scene, 0.1, 3.0)
    known = min(model.cameras)
    before = {i: c.params.tolist() for i, c in model.cameras.items()}
    adjust_without_outliers(model, 5.0, {known})
    after = {i: c.params.tolist() for i, c in model.cameras.items()}
    assert after[known] == before[known]
    assert all(after[i] != before[i] for i in before if i != known)


def test_a_model_without_points_is_left_alone():
    assert adjust_without_outliers(pycolmap.Reconstruction(), 5.0) == 0


def test_what_is_absurd_leaves(scene):
    model = pycolmap.Reconstruction(scene.model)
    first, second, third, fourth = sorted(model.point3D_ids())[:4]
    model.points3D[first].xyz = np.array([1e150, -1e153, 3e151])
    model.points3D[second].xyz = np.array([np.nan, 0, 1])
    image = model.images[min(model.images)]
    rays = np.array([image.cam_from_world() * model.points3D[third].xyz])
    model.points3D[third].xyz = image.cam_from_world().inverse() * -rays[0]  # behind
    track = model.points3D[fourth].track.elements
    point2D = model.images[track[0].image_id].points2D[track[0].point2D_idx]
    point2D.xy = point2D.xy + 2 * MAX_ERROR
    length = model.points3D[fourth].track.length()
    assert drop_absurd(model) > 0
    assert {first, second, third}.isdisjoint(model.point3D_ids())
    assert model.points3D[fourth].track.length() == length - 1
    assert model.num_points3D() == scene.model.num_points3D() - 3
    assert reprojection_errors(model).max() < 1e-6
    assert drop_absurd(model) == 0


def test_images_leave_whose_camera_no_lens_has(scene):
    model = pycolmap.Reconstruction(scene.model)
    image = model.images[min(model.reg_image_ids())]
    camera, name, before = image.camera_id, image.name, set(model.reg_image_ids())
    with_it = {i for i in before if model.images[i].camera_id == camera}
    assert drop_wild_images(model, set()) == []
    model.cameras[camera].params = [-1.57e6, *model.cameras[camera].params[1:].tolist()]
    model.transform(pycolmap.Sim3d(1e-6, pycolmap.Rotation3d(), np.zeros(3)))  # as of one far away
    assert drop_wild_images(model, {camera}) == []
    assert name in drop_wild_images(model, set())
    assert set(model.reg_image_ids()) == before - with_it
    seen = {e.image_id for p in model.points3D.values() for e in p.track.elements}
    assert not seen & with_it
    centres = [model.images[i].projection_center() for i in model.reg_image_ids()]
    assert np.ptp(centres, axis=0).max() > 1
    found = model.cameras[camera]
    longest = max(found.width, found.height)
    assert found.params[:2] == pytest.approx([1.2 * longest, 1.2 * longest])


def with_known_noise(scene, seed=0):
    """The exact model, its observations moved by deviations of many sizes, and these by image."""
    model, rng = pycolmap.Reconstruction(scene.model), np.random.default_rng(seed)
    deviations = {}
    for image in model.images.values():
        found = rng.choice([0.02, 0.2, 1.0], image.num_points2D())
        for point2D, deviation in zip(image.points2D, found, strict=True):
            point2D.xy = point2D.xy + rng.normal(0, deviation, 2)
        deviations[image.name] = found
    return model, deviations


def test_certain_places_count_more(scene):
    plain, deviations = with_known_noise(scene)
    weighted = pycolmap.Reconstruction(plain)
    adjust_without_outliers(plain, 5.0)
    adjust_without_outliers(weighted, 5.0, deviations=deviations)
    assert position_error(weighted, scene) < 0.75 * position_error(plain, scene)


def test_deviations_of_other_keypoints_are_not_used(scene):
    plain, deviations = with_known_noise(scene)
    others = {name: found[1:] for name, found in deviations.items()}
    other, unknown = (pycolmap.Reconstruction(plain) for _ in range(2))
    adjust_without_outliers(other, 5.0, deviations=others)
    nothing = {name: np.full(len(found), np.nan) for name, found in deviations.items()}
    adjust_without_outliers(unknown, 5.0, deviations=nothing)
    for name, pose in pose_errors.model_poses(other).items():
        here = pose_errors.model_poses(unknown)[name]
        np.testing.assert_array_equal(pose.matrix(), here.matrix())


def test_equal_deviations_give_colmaps_own_adjustment(scene):
    plain = with_noise(scene, 0.1, 3.0)
    equal = pycolmap.Reconstruction(plain)
    known = {min(plain.cameras)}
    names = {image.name: image.num_points2D() for image in plain.images.values()}
    adjust_without_outliers(plain, 5.0, known)
    alike = {name: np.full(count, np.nan) for name, count in names.items()}
    adjust_without_outliers(equal, 5.0, known, deviations=alike)
    assert equal.compute_num_observations() == plain.compute_num_observations()
    assert position_error(equal, scene) == pytest.approx(position_error(plain, scene), rel=0.02)
    for camera_id in plain.cameras:
        both = [m.cameras[camera_id].params for m in (plain, equal)]
        np.testing.assert_allclose(*both, rtol=1e-3)


def test_without_pyceres_all_count_alike(scene, monkeypatch):
    plain, deviations = with_known_noise(scene)
    without = pycolmap.Reconstruction(plain)
    monkeypatch.setitem(sys.modules, "pyceres", None)
    adjust_without_outliers(plain, 5.0)
    adjust_without_outliers(without, 5.0, deviations=deviations)
    assert position_error(without, scene) == position_error(plain, scene)
