"""The last adjustment of a model: observations that disagree with it leave, the rest decide."""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np

from d2_hloc.files.colmap import camera_of, img_from_cam, pycolmap
from d2_hloc.sfm.adjustment.weighted import Units, can_weight, solve_weighted
from d2_hloc.sfm.cameras.guess import default_camera
from d2_hloc.sfm.pose_refit import units_of

ROUNDS = 4
MIN_ANGLE = 1.5  # degrees between a point's rays, as COLMAP's mapper asks for
FEW = 0.01  # of the observations: when fewer leave, the model is done
LOSS_SCALE = 2.0  # median errors
LEAST_SCALE = 0.01  # pixels: keypoints are not more precise
MAX_ERROR = 16.0  # pixels: no observation is so far off in a model that holds; COLMAP's bound is 4
FOCAL_BOUNDS = (0.1, 10.0)  # of the longest edge; these and the next are COLMAP's
MAX_DISTORTION = 1.0

State = tuple[dict[int, np.ndarray], dict[int, pycolmap.Rigid3d | None], dict[int, np.ndarray]]


def adjust_without_outliers(
    model: pycolmap.Reconstruction,
    outlier_factor: float,
    constant_cameras: Set[int] = frozenset(),
    num_threads: int = -1,
    deviations: Mapping[str, np.ndarray] | None = None,
) -> int:
    """Drop observations beyond `outlier_factor` median errors, adjust, and again; in place.

    COLMAP drops them beyond 4 pixels, which is right for keypoints of a pixel's precision. Those
    that were refined to a fraction of one are outweighed by the few that were not; how precise they
    are, the model's own median tells. The loss is Cauchy's, at LOSS_SCALE median errors. Intrinsics
    of `constant_cameras` stay. With `deviations` (N,) of keypoints by image, in pixels, those that
    stay count by these. Returns how many observations left.
    """
    before = model.compute_num_observations()
    drop_absurd(model)
    for _ in range(ROUNDS):
        if drop_outliers(model, outlier_factor) <= FEW * model.compute_num_observations():
            break
        units = _units(model, deviations)
        median = float(np.median(reprojection_errors(model, units)))
        scale = max(LOSS_SCALE * median, LEAST_SCALE)
        adjust(model, constant_cameras, num_threads, loss_scale=scale, units=units)
        drop_absurd(model)
    model.update_point_3d_errors()
    return before - model.compute_num_observations()


def _units(
    model: pycolmap.Reconstruction, deviations: Mapping[str, np.ndarray] | None
) -> Units | None:
    """Deviations of the errors of all keypoints by image id; None where all count alike."""
    if not deviations or not can_weight(model):
        return None
    errors = reprojection_errors(model)
    if not len(errors):
        return None
    median, units = float(np.median(errors)), {}
    for image_id in model.reg_image_ids():
        image = model.images[image_id]
        found = deviations.get(image.name, np.empty(0))
        if len(found) != image.num_points2D():
            found = np.full(image.num_points2D(), np.nan)
        units[image_id] = units_of(found.astype(float), median)
    return units


def drop_absurd(model: pycolmap.Reconstruction) -> int:
    """Drop what no model may hold, whichever mapper made it; returns how many observations left.

    These are points that are not finite, observations behind their camera, and those beyond
    MAX_ERROR pixels, with the points that fewer than two observations are left of.
    """
    before, absurd = model.compute_num_observations(), []
    for image_id in model.reg_image_ids():
        index, errors = _errors_of_image(model, model.images[image_id])
        absurd += [(image_id, int(i)) for i in index[~(errors <= MAX_ERROR)]]
    manager = pycolmap.ObservationManager(model)
    for image_id, index2D in absurd:
        if model.images[image_id].points2D[index2D].has_point3D():  # its point may be gone by now
            manager.delete_observation(image_id, index2D)
    if absurd:
        model.update_point_3d_errors()
    return before - model.compute_num_observations()


def drop_wild_images(model: pycolmap.Reconstruction, constant_cameras: Set[int]) -> list[str]:
    """Images leave whose camera no lens has, unless it is one of `constant_cameras`; their names.

    Mappers drop them when they look at them next, and so keep those of the last adjustment. Their
    cameras, which no image has then, are guessed again: a model with such a one is of no use. The
    rest is scaled anew: such an image may stand so far away that the others fell into one place,
    where no adjustment moves them rightly.
    """
    names, manager = [], pycolmap.ObservationManager(model)
    for image_id in sorted(model.reg_image_ids()):
        image = model.images[image_id]
        if image.camera_id not in constant_cameras and is_wild(model.cameras[image.camera_id]):
            names.append(image.name)
            if image.has_pose:  # it leaves with the others of its frame
                manager.deregister_frame(image.frame_id)
    for camera in model.cameras.values():
        if camera.camera_id not in constant_cameras and is_wild(camera):
            size = camera.width, camera.height
            camera.params = default_camera(camera.model_name, size).params
    if names:
        model.normalize()
    return names


def drop_outliers(model: pycolmap.Reconstruction, outlier_factor: float) -> int:
    """Observations beyond `outlier_factor` median errors leave; how many did. Nothing moves."""
    errors, before = reprojection_errors(model), model.compute_num_observations()
    if len(errors):
        threshold = outlier_factor * float(np.median(errors))
        pycolmap.ObservationManager(model).filter_all_points3D(threshold, MIN_ANGLE)
        model.update_point_3d_errors()
    return before - model.compute_num_observations()


def reprojection_errors(model: pycolmap.Reconstruction, units: Units | None = None) -> np.ndarray:
    """Reprojection error of every observation (N,); infinite behind its camera.

    In pixels, or in `units` of these by image id and keypoint.
    """
    found = [np.empty(0)]
    for image_id in model.reg_image_ids():
        index, errors = _errors_of_image(model, model.images[image_id])
        found.append(errors if units is None else errors / units[image_id][index])
    return np.concatenate(found)


def _errors_of_image(
    model: pycolmap.Reconstruction, image: pycolmap.Image
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (N,) of an image's keypoints that have a point, and their errors (N,) in pixels."""
    index = np.array([i for i, p in enumerate(image.points2D) if p.has_point3D()], dtype=np.int64)
    seen = [image.points2D[i] for i in index.tolist()]
    xyz = np.array([model.points3D[p.point3D_id].xyz for p in seen]).reshape(-1, 3)
    in_camera = np.asarray(image.cam_from_world() * xyz).reshape(-1, 3)
    xy = np.array([p.xy for p in seen]).reshape(-1, 2)
    with np.errstate(all="ignore"):
        errors = np.linalg.norm(img_from_cam(camera_of(image), in_camera) - xy, axis=1)
    return index, np.where((in_camera[:, 2] > 0) & np.isfinite(errors), errors, np.inf)


def adjust(
    model: pycolmap.Reconstruction,
    constant_cameras: Set[int],
    num_threads: int = -1,
    *,
    loss_scale: float | None = None,
    refine_distortion: bool = True,
    units: Units | None = None,
) -> None:
    """Bundle adjustment of poses, points and the intrinsics that are not constant, in place.

    With `loss_scale`, in pixels or `units`, errors count by Cauchy's loss, otherwise by their
    squares. Where a camera leaves all bounds, nothing is kept, and the adjustment is done with its
    intrinsics as they were.
    """
    before = _state(model)
    _solve(model, constant_cameras, num_threads, loss_scale, refine_distortion, units)
    wild = {i for i, c in model.cameras.items() if is_wild(c)} - constant_cameras
    if wild:
        _restore(model, before)
        constant = constant_cameras | wild
        _solve(model, constant, num_threads, loss_scale, refine_distortion, units)


def is_wild(camera: pycolmap.Camera) -> bool:
    """True for intrinsics that no lens has."""
    is_finite = bool(np.isfinite(camera.params).all())
    return not is_finite or camera.has_bogus_params(*FOCAL_BOUNDS, MAX_DISTORTION)


def _solve(
    model: pycolmap.Reconstruction,
    constant_cameras: Set[int],
    num_threads: int,
    loss_scale: float | None,
    refine_distortion: bool,
    units: Units | None,
) -> None:
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.reg_image_ids():
        config.add_image(image_id)
    for camera_id in constant_cameras & set(model.cameras):
        config.set_constant_cam_intrinsics(camera_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options = adjustment_options(loss_scale, refine_distortion)
    options.ceres.solver_options.num_threads = num_threads
    if units is not None:
        solve_weighted(model, config, options, units, loss_scale)
    else:
        pycolmap.create_default_bundle_adjuster(options, config, model).solve()


def adjustment_options(
    loss_scale: float | None, refine_distortion: bool
) -> pycolmap.BundleAdjustmentOptions:
    """Options of a bundle adjustment with Cauchy's loss at a scale in pixels, or squares."""
    options = pycolmap.BundleAdjustmentOptions(
        print_summary=False, refine_extra_params=refine_distortion
    )
    if loss_scale is not None:
        options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
        options.ceres.loss_function_scale = loss_scale
    return options


def _state(model: pycolmap.Reconstruction) -> State:
    """All that an adjustment moves: intrinsics, poses of frames, and points, by id."""
    return (
        {i: np.array(c.params) for i, c in model.cameras.items()},
        {i: model.frames[i].rig_from_world for i in model.reg_frame_ids()},
        {i: np.array(p.xyz) for i, p in model.points3D.items()},
    )


def _restore(model: pycolmap.Reconstruction, state: State) -> None:
    params, poses, places = state
    for camera_id, values in params.items():
        model.cameras[camera_id].params = values.tolist()
    for frame_id, pose in poses.items():
        model.frames[frame_id].rig_from_world = pose
    for point_id, xyz in places.items():
        model.points3D[point_id].xyz = xyz
