"""A camera pose estimated again from its inliers, each weighted by how certain its place is."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import least_squares

from d2_hloc.files.colmap import img_from_cam, pycolmap

OUTLIER_FACTOR = 5.0  # median errors
ROUNDS = 3
FEWEST = 4  # points that determine a pose and confirm it
ENOUGH = 12  # places of known deviations, for others to count no longer
LOSS_SCALE = 2.0  # standard deviations, beyond which Cauchy's loss counts errors little
POINTS = 0.5  # of the errors' deviation, at least, is that of points and camera
LEAST = 1e-3  # pixels
RAYLEIGH = 1.1774  # median distance from the middle, in standard deviations along an axis


def refit_pose(
    pose: pycolmap.Rigid3d,
    xy: Float[np.ndarray, "K 2"],
    xyz: Float[np.ndarray, "K 3"],
    inliers: Bool[np.ndarray, " K"],
    camera: pycolmap.Camera,
    deviations: Float[np.ndarray, " K"] | None = None,
) -> pycolmap.Rigid3d:
    """Estimate a pose again from the inliers within OUTLIER_FACTOR median errors.

    Errors count by their deviations, where these are known of ENOUGH inliers; others are left out
    then. The focal length stays.

    Args:
        pose: world to camera.
        xy: places in COLMAP's pixels.
        xyz: the points that are seen there.
        inliers: those that count.
        camera: of the image.
        deviations: standard deviations of the places in pixels, along an axis; NaN: not known.
    """
    if deviations is None:
        return _by_pixels(pose, xy, xyz, inliers, camera)
    known = inliers & np.isfinite(deviations)
    if known.sum() < ENOUGH:
        return _by_pixels(pose, xy, xyz, inliers, camera)
    return _by_deviations(pose, xy, xyz, known, camera, deviations)


def _by_pixels(
    pose: pycolmap.Rigid3d,
    xy: np.ndarray,
    xyz: np.ndarray,
    inliers: np.ndarray,
    camera: pycolmap.Camera,
) -> pycolmap.Rigid3d:
    for _ in range(ROUNDS):
        if inliers.sum() < FEWEST:
            break
        errors = np.linalg.norm(_residuals(pose, xy, xyz, camera), axis=1)
        near = inliers & (errors <= OUTLIER_FACTOR * np.median(errors[inliers]))
        answer = pycolmap.refine_absolute_pose(pose, xy, xyz, near, camera)
        if answer is None:
            break
        pose, inliers = answer["cam_from_world"], near
    return pose


def _by_deviations(
    pose: pycolmap.Rigid3d,
    xy: np.ndarray,
    xyz: np.ndarray,
    inliers: np.ndarray,
    camera: pycolmap.Camera,
    deviations: np.ndarray,
) -> pycolmap.Rigid3d:
    """Least squares of errors in units of their deviations, by Cauchy's loss."""
    for _ in range(ROUNDS):
        errors = np.linalg.norm(_residuals(pose, xy, xyz, camera), axis=1)
        units = units_of(deviations, float(np.median(errors[inliers])))
        median = np.median((errors / units)[inliers])
        inliers = inliers & (errors / units <= OUTLIER_FACTOR * median)
        if inliers.sum() < FEWEST:
            break
        scale = max(LOSS_SCALE * median / RAYLEIGH, 1e-6)
        pose = _least_squares(pose, xy[inliers], xyz[inliers], camera, units[inliers], scale)
    return pose


def units_of(deviations: Float[np.ndarray, " K"], median: float) -> Float[np.ndarray, " K"]:
    """Deviations of reprojection errors, in pixels, of which the median error is `median`.

    Points and cameras have errors of their own, so that no place is more certain than a part of
    what errors are in the middle. Those that nothing is known of are like the one in the middle.
    """
    typical = max(median / RAYLEIGH, LEAST)
    units = np.hypot(deviations, POINTS * typical)
    return np.where(np.isfinite(units), units, typical)


def _least_squares(
    pose: pycolmap.Rigid3d,
    xy: np.ndarray,
    xyz: np.ndarray,
    camera: pycolmap.Camera,
    units: np.ndarray,
    scale: float,
) -> pycolmap.Rigid3d:
    def moved(step: np.ndarray) -> pycolmap.Rigid3d:
        return pycolmap.Rigid3d(pycolmap.Rotation3d(step[:3]), step[3:]) * pose

    def errors(step: np.ndarray) -> np.ndarray:
        residuals = _residuals(moved(step), xy, xyz, camera) / units[:, None]
        return np.clip(residuals, -1e6, 1e6).ravel()

    found = least_squares(errors, np.zeros(6), x_scale="jac", loss="cauchy", f_scale=scale)
    return moved(found.x)


def _residuals(
    pose: pycolmap.Rigid3d, xy: np.ndarray, xyz: np.ndarray, camera: pycolmap.Camera
) -> Float[np.ndarray, "K 2"]:
    """Reprojection errors in pixels; infinite behind the camera."""
    in_camera = np.asarray(pose * xyz).reshape(-1, 3)
    with np.errstate(all="ignore"):
        residuals = img_from_cam(camera, in_camera) - xy
    is_seen = (in_camera[:, 2] > 0) & np.isfinite(residuals).all(axis=1)
    return np.where(is_seen[:, None], residuals, np.inf)
