"""Epipolar geometry of matched points, by PoseLib: a relative pose, or a fundamental matrix.

Larsson et al., PoseLib: LO-RANSAC with minimal solvers, and a bundle adjustment of the inliers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import poselib

from d2_hloc.files.colmap import pycolmap
from d2_hloc.matching.guided import epipolar_distances, homogeneous

MIN_CALIBRATED = 0.95  # of the fundamental matrix's inliers: fewer, and focal lengths are wrong
EXPLAINED = 0.5  # of the matches drawn from: fewer inliers, and focal lengths are in doubt
FREER_TRIALS = 1000
SLACK = 5  # inliers more that a fundamental matrix has in any case: it is freer
GUESS_ERROR = 2.0  # times the error, where a pose of guessed focal lengths starts
FEWEST = 8  # matches that hypotheses are drawn from

Ransac = dict[str, Any]  # PoseLib's options


@dataclass(frozen=True, kw_only=True)
class MatchedPoints:
    """Matched keypoints of two images, in COLMAP's pixels, and the cameras."""

    xy0: np.ndarray  # (K, 2)
    xy1: np.ndarray  # (K, 2)
    camera0: pycolmap.Camera
    camera1: pycolmap.Camera

    def __len__(self) -> int:
        return len(self.xy0)

    def of(self, mask: np.ndarray) -> MatchedPoints:
        """Pick the matches of a mask (K,)."""
        return replace(self, xy0=self.xy0[mask], xy1=self.xy1[mask])

    @property
    def is_calibrated(self) -> bool:
        """Are both focal lengths known?"""
        return self.camera0.has_prior_focal_length and self.camera1.has_prior_focal_length


@dataclass(frozen=True, kw_only=True)
class Epipolar:
    """An epipolar geometry and its inliers."""

    fundamental: np.ndarray  # (3, 3) for pixels; of undistorted ones where there is a pose
    inliers: np.ndarray  # (K,) mask
    pose: pycolmap.Rigid3d | None = None  # cam1_from_cam0


def rays(camera: pycolmap.Camera, xy: np.ndarray) -> np.ndarray:
    """Points (K, 2) without distortion, in pixels from the principal point.

    A pixel is that of the mean focal length. Points that no ray has are far away, where nothing
    agrees with them.
    """
    found = np.asarray(camera.cam_from_img(xy)).reshape(-1, 2) * camera.mean_focal_length()
    return np.where(np.isfinite(found), found, 1e6)


def pinhole(camera: pycolmap.Camera) -> Ransac:
    """PoseLib's camera of rays()."""
    params = [camera.mean_focal_length(), 0.0, 0.0]
    width, height = int(camera.width), int(camera.height)
    return {"model": "SIMPLE_PINHOLE", "width": width, "height": height, "params": params}


def cross(translation: np.ndarray) -> np.ndarray:
    """The matrix (3, 3) whose product with a vector is the cross product."""
    x, y, z = translation
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def fundamental_of(
    pose: pycolmap.Rigid3d, calibration0: np.ndarray, calibration1: np.ndarray
) -> np.ndarray:
    """Fundamental matrix of a relative pose and calibration matrices (3, 3)."""
    essential = cross(pose.translation) @ pose.rotation.matrix()
    return np.linalg.inv(calibration1).T @ essential @ np.linalg.inv(calibration0)


def focal_matrix(camera: pycolmap.Camera) -> np.ndarray:
    """Calibration matrix (3, 3) of normalised keypoints: the focal length alone."""
    return np.diag([camera.mean_focal_length(), camera.mean_focal_length(), 1.0])


def calibrated(
    points: MatchedPoints,
    drawn: np.ndarray | None,
    ransac: Ransac,
    start: pycolmap.TwoViewGeometry | None,
) -> Epipolar | None:
    """A relative pose; None where a fundamental matrix says that the focal lengths are wrong."""
    max_error = float(ransac["max_epipolar_error"])
    rays0, rays1 = rays(points.camera0, points.xy0), rays(points.camera1, points.xy1)
    pose = _relative_pose(points, rays0, rays1, drawn, ransac, start)
    if pose is None:
        return None
    matrices = focal_matrix(points.camera0), focal_matrix(points.camera1)
    fundamental = fundamental_of(pose, *matrices)
    inliers = epipolar_distances(fundamental, rays0, rays1) <= max_error
    inliers &= in_front(pose, rays0 / matrices[0][0, 0], rays1 / matrices[1][0, 0])
    if inliers.sum() < FEWEST:
        return None
    if drawn is not None and inliers[drawn].mean() < EXPLAINED:
        freer = _freer_inliers(rays0, rays1, drawn, ransac)
        if inliers.sum() < MIN_CALIBRATED * freer.sum() - SLACK:
            return None
    return Epipolar(fundamental=fundamental, inliers=inliers, pose=pose)


def _freer_inliers(
    rays0: np.ndarray, rays1: np.ndarray, drawn: np.ndarray, ransac: Ransac
) -> np.ndarray:
    """Mask (K,) of the inliers of a fundamental matrix, which needs no focal lengths."""
    found, _ = poselib.estimate_fundamental(
        rays0[drawn], rays1[drawn], ransac | {"max_iterations": FREER_TRIALS}, {}
    )
    max_error = float(ransac["max_epipolar_error"])
    return epipolar_distances(np.asarray(found), rays0, rays1) <= max_error


def _relative_pose(
    points: MatchedPoints,
    rays0: np.ndarray,
    rays1: np.ndarray,
    drawn: np.ndarray | None,
    ransac: Ransac,
    start: pycolmap.TwoViewGeometry | None,
) -> pycolmap.Rigid3d | None:
    cameras = pinhole(points.camera0), pinhole(points.camera1)
    first = None
    if start is not None:
        drawn = np.ones(len(points), bool)
        if start.cam2_from_cam1 is not None:
            first = poselib.CameraPose()
            first.R = start.cam2_from_cam1.rotation.matrix()
            first.t = start.cam2_from_cam1.translation
    if drawn is None or drawn.sum() < FEWEST:
        return None
    pose, _ = poselib.estimate_relative_pose(
        rays0[drawn], rays1[drawn], *cameras, ransac, {}, first
    )
    return rigid(pose)


def rigid(pose: poselib.CameraPose) -> pycolmap.Rigid3d:
    """PoseLib's pose as COLMAP's."""
    w, x, y, z = pose.q
    return pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([x, y, z, w])), np.array(pose.t))


def in_front(pose: pycolmap.Rigid3d, rays0: np.ndarray, rays1: np.ndarray) -> np.ndarray:
    """Mask of the matches (K, 2), normalised, whose point lies before both cameras."""
    turned = homogeneous(rays0) @ pose.rotation.matrix().T
    other, translation = homogeneous(rays1), pose.translation
    # depth0 turned + translation = depth1 other, solved by its products with both directions.
    aa, bb, ab = (turned**2).sum(1), (other**2).sum(1), (turned * other).sum(1)
    at, bt = turned @ translation, other @ translation
    depth0, depth1 = ab * bt - bb * at, aa * bt - ab * at  # times a number that is not negative
    return (depth0 > 0) & (depth1 > 0)


def uncalibrated(
    points: MatchedPoints,
    drawn: np.ndarray | None,
    ransac: Ransac,
    start: pycolmap.TwoViewGeometry | None,
) -> Epipolar | None:
    """The best of the fundamental matrices that the ways to one lead to."""
    max_error = float(ransac["max_epipolar_error"])
    candidates = _hypotheses(points, drawn, ransac, start)
    bundle = {"loss_type": "TRUNCATED", "loss_scale": max_error, "max_iterations": 25}
    best, lowest = None, np.inf
    for fundamental in candidates:
        near = epipolar_distances(fundamental, points.xy0, points.xy1) <= 3 * max_error
        if near.sum() < FEWEST:
            continue
        fitted, _ = poselib.refine_fundamental(
            points.xy0[near], points.xy1[near], fundamental, bundle
        )
        errors = epipolar_distances(np.asarray(fitted), points.xy0, points.xy1)
        cost = np.minimum(errors / max_error, 1) ** 2
        if cost.sum() < lowest:
            lowest, inliers = cost.sum(), errors <= max_error
            best = Epipolar(fundamental=np.asarray(fitted), inliers=inliers)
    return best


def _hypotheses(
    points: MatchedPoints,
    drawn: np.ndarray | None,
    ransac: Ransac,
    start: pycolmap.TwoViewGeometry | None,
) -> list[np.ndarray]:
    """Fundamental matrices: of a pose with the guessed focal lengths, a shared one, and of none.

    Facades are nearly planes: seven points on one determine no fundamental matrix, five a pose.
    """
    if start is not None:
        if start.F is None or len(points) < FEWEST:
            return []
        first = np.asarray(start.F)
        found, _ = poselib.estimate_fundamental(points.xy0, points.xy1, ransac, {}, first)
        return [first, np.asarray(found)]
    if drawn is None or drawn.sum() < FEWEST:
        return []
    found = []
    chosen = points.of(drawn)
    rays0, rays1 = rays(points.camera0, points.xy0), rays(points.camera1, points.xy1)
    looser = ransac | {"max_epipolar_error": GUESS_ERROR * float(ransac["max_epipolar_error"])}
    pose = _relative_pose(points, rays0, rays1, drawn, looser, None)
    if pose is not None:
        matrices = points.camera0.calibration_matrix(), points.camera1.calibration_matrix()
        found.append(fundamental_of(pose, *matrices))
    if points.camera0.camera_id == points.camera1.camera_id != pycolmap.Camera().camera_id:
        found.append(_shared_focal(chosen, ransac))
    fundamental, _ = poselib.estimate_fundamental(
        chosen.xy0, chosen.xy1, ransac | {"real_focal_check": True}, {}
    )
    return [f for f in [*found, np.asarray(fundamental)] if np.isfinite(f).all() and f.any()]


def _shared_focal(points: MatchedPoints, ransac: Ransac) -> np.ndarray:
    """The fundamental matrix of a pose with one unknown focal length."""
    camera = points.camera0
    centre = np.array([camera.principal_point_x, camera.principal_point_y])
    pair, _ = poselib.estimate_shared_focal_relative_pose(
        points.xy0, points.xy1, centre, ransac | {"max_iterations": 1000}, {}
    )
    focal = pair.camera1.focal()
    matrix = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    return fundamental_of(rigid(pair.pose), matrix, matrix)
