"""The last adjustment of a model: observations that disagree with it leave, the rest decide."""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from d2_hloc.files.colmap import camera_of, img_from_cam, pycolmap

ROUNDS = 4
MIN_ANGLE = 1.5  # degrees between a point's rays, as COLMAP's mapper asks for
FEW = 0.01  # of the observations: when fewer leave, the model is done


def adjust_without_outliers(
    model: pycolmap.Reconstruction,
    outlier_factor: float,
    constant_cameras: Set[int] = frozenset(),
    num_threads: int = -1,
) -> int:
    """Drop observations beyond `outlier_factor` median errors, adjust, and again; in place.

    COLMAP drops them beyond 4 pixels, which is right for keypoints of a pixel's precision. Those
    that were refined to a fraction of one are outweighed by the few that were not; how precise they
    are, the model's own median tells. Intrinsics of `constant_cameras` stay. Returns how many
    observations left.
    """
    before = model.compute_num_observations()
    for _ in range(ROUNDS):
        if drop_outliers(model, outlier_factor) <= FEW * model.compute_num_observations():
            break
        adjust(model, constant_cameras, num_threads)
    model.update_point_3d_errors()
    return before - model.compute_num_observations()


def drop_outliers(model: pycolmap.Reconstruction, outlier_factor: float) -> int:
    """Observations beyond `outlier_factor` median errors leave; how many did. Nothing moves."""
    errors, before = reprojection_errors(model), model.compute_num_observations()
    if len(errors):
        threshold = outlier_factor * float(np.median(errors))
        pycolmap.ObservationManager(model).filter_all_points3D(threshold, MIN_ANGLE)
        model.update_point_3d_errors()
    return before - model.compute_num_observations()


def reprojection_errors(model: pycolmap.Reconstruction) -> np.ndarray:
    """Reprojection error of every observation (N,), in pixels."""
    errors = [np.empty(0)]
    for image_id in model.reg_image_ids():
        image = model.images[image_id]
        seen = [p for p in image.points2D if p.has_point3D()]
        xyz = np.array([model.points3D[p.point3D_id].xyz for p in seen]).reshape(-1, 3)
        projected = img_from_cam(camera_of(image), image.cam_from_world() * xyz)
        xy = np.array([p.xy for p in seen]).reshape(-1, 2)
        errors.append(np.linalg.norm(projected - xy, axis=1))
    return np.concatenate(errors)


def adjust(
    model: pycolmap.Reconstruction, constant_cameras: Set[int], num_threads: int = -1
) -> None:
    """Bundle adjustment of poses, points and the intrinsics that are not constant, in place."""
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.reg_image_ids():
        config.add_image(image_id)
    for camera_id in constant_cameras & set(model.cameras):
        config.set_constant_cam_intrinsics(camera_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.ceres.solver_options.num_threads = num_threads
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()
