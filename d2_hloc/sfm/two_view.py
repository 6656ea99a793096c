"""Two-view geometry of a pair of images: verified matches, told apart as COLMAP does.

Where both focal lengths are known, a relative pose is estimated, otherwise a fundamental matrix.
Whether a homography explains as much, COLMAP's ratios decide: the pair is calibrated, uncalibrated,
planar or panoramic (Schoenberger and Frahm, "Structure-from-Motion Revisited", CVPR 2016, 4.1).
"""

from __future__ import annotations

import numpy as np
import poselib
from torch import Tensor

from d2_hloc.core.pixels import to_colmap
from d2_hloc.core.structs import Matches
from d2_hloc.files.colmap import copy_camera, pycolmap
from d2_hloc.matching.consistency import local_consistency
from d2_hloc.matching.guided import epipolar_distances, homogeneous
from d2_hloc.sfm.options import VerificationOptions
from d2_hloc.sfm.two_views.epipolar import (
    Epipolar,
    MatchedPoints,
    Ransac,
    calibrated,
    cross,
    fundamental_of,
    rays,
    uncalibrated,
)
from d2_hloc.sfm.two_views.significance import chance_of, log_false_alarms, shuffled

Config = pycolmap.TwoViewGeometryConfiguration

MAX_HOMOGRAPHY = 0.8  # of the epipolar geometry's inliers: more, and it is a plane or a rotation
FOCAL_RANGE = 3.0  # of an estimated focal length over its guess, either way


def verify_pair(
    keypoints0: Tensor | np.ndarray,
    keypoints1: Tensor | np.ndarray,
    matches: Matches | Tensor | np.ndarray,
    cameras: tuple[pycolmap.Camera, pycolmap.Camera],
    options: VerificationOptions | None = None,
    seed: int = 0,
) -> pycolmap.TwoViewGeometry:
    """The two-view geometry of matched images, with the matches that fit it.

    Args:
        keypoints0: (N0, 2) in pixels; (0, 0) is the centre of the first one.
        keypoints1: (N1, 2), likewise.
        matches: Matches, or keypoint indices (K, 2).
        cameras: of both images. Focal lengths are taken as known where the camera's
            has_prior_focal_length says so.
        options: thresholds; the defaults where there are none.
        seed: the same one gives the same result.

    Returns:
        COLMAP's geometry from image 0 to image 1: config, E, F or H, cam2_from_cam1, tri_angle and
        inlier_matches (M, 2). Its config is DEGENERATE where the inliers are too few, or chance.
    """
    options = options or VerificationOptions()
    pairs = np.asarray(matches.pairs if isinstance(matches, Matches) else matches)
    pairs = pairs.reshape(-1, 2).astype(np.int64)
    points = matched_points((keypoints0, keypoints1), pairs, cameras)
    if not by_poselib(options, *cameras):
        return by_colmap(options, points, pairs, seed)
    geometry, inliers = estimate_two_view(
        options, points, seed=seed, first=supported(options, points)
    )
    geometry.inlier_matches = pairs[inliers].astype(np.uint32)
    return geometry


def by_poselib(
    options: VerificationOptions, camera0: pycolmap.Camera, camera1: pycolmap.Camera
) -> bool:
    """Is a pair of these cameras PoseLib's to estimate?"""
    if options.estimator == "auto":
        return camera0.has_prior_focal_length and camera1.has_prior_focal_length
    return options.estimator == "poselib"


def matched_points(
    keypoints: tuple[Tensor | np.ndarray, Tensor | np.ndarray],
    pairs: np.ndarray,
    cameras: tuple[pycolmap.Camera, pycolmap.Camera],
) -> MatchedPoints:
    """Places of matches (K, 2) in COLMAP's pixels."""
    xy0, xy1 = (
        to_colmap(np.asarray(xy, dtype=np.float64).reshape(-1, 2)[index])
        for xy, index in zip(keypoints, pairs.T, strict=True)
    )
    return MatchedPoints(xy0=xy0, xy1=xy1, camera0=cameras[0], camera1=cameras[1])


def by_colmap(
    options: VerificationOptions, points: MatchedPoints, pairs: np.ndarray, seed: int
) -> pycolmap.TwoViewGeometry:
    """COLMAP's own estimate, for comparison."""
    if len(pairs) < options.min_num_inliers:
        return degenerate()
    every = np.arange(len(pairs), dtype=np.uint32)
    geometry = pycolmap.estimate_two_view_geometry(
        points.camera0,
        points.xy0,
        points.camera1,
        points.xy1,
        np.stack([every, every], axis=1),
        colmap_options(options, seed),
    )
    geometry.inlier_matches = pairs[geometry.inlier_matches[:, 0]].astype(np.uint32)
    return geometry


def colmap_options(options: VerificationOptions, seed: int) -> pycolmap.TwoViewGeometryOptions:
    """The same thresholds for COLMAP's estimator."""
    return pycolmap.TwoViewGeometryOptions(
        min_num_inliers=options.min_num_inliers,
        compute_relative_pose=True,
        ransac=pycolmap.RANSACOptions(
            max_error=options.max_error, confidence=options.confidence, random_seed=seed
        ),
    )


def supported(
    options: VerificationOptions, points: MatchedPoints, noise: float = 1.0
) -> np.ndarray | None:
    """Mask (K,) of the matches that those around them support; None where that is not asked for."""
    if not options.min_support:
        return None
    area1 = float(points.camera1.width * points.camera1.height)
    found = local_consistency(points.xy0, points.xy1, area1, noise=noise)
    return found.support > options.min_support


def estimate_two_view(
    options: VerificationOptions,
    points: MatchedPoints,
    *,
    seed: int = 0,
    first: np.ndarray | None = None,
    start: pycolmap.TwoViewGeometry | None = None,
) -> tuple[pycolmap.TwoViewGeometry, np.ndarray]:
    """COLMAP's two-view geometry of matched points, and the mask (K,) of its inliers.

    `first` (K,) masks the matches that hypotheses are drawn from; where they lead to nothing, all
    are. `start`, the geometry of the same pair before its keypoints moved, is the first hypothesis.
    The geometry is degenerate where its inliers are too few, or chance.
    """
    every = np.ones(len(points), bool)
    ways = [(None, start)] if start is not None else []
    ways += [(mask, None) for mask in (first, every) if mask is not None]
    for drawn, begin in ways:
        found = _estimate(options, points, drawn, seed, begin)
        if found is not None:
            return found
    return degenerate(), ~every


def degenerate() -> pycolmap.TwoViewGeometry:
    """The geometry of a pair that has none."""
    geometry = pycolmap.TwoViewGeometry()
    geometry.config = Config.DEGENERATE
    return geometry


def _estimate(
    options: VerificationOptions,
    points: MatchedPoints,
    drawn: np.ndarray | None,
    seed: int,
    start: pycolmap.TwoViewGeometry | None,
) -> tuple[pycolmap.TwoViewGeometry, np.ndarray] | None:
    """The geometry and its inliers, or None where they are too few or chance."""
    ransac: Ransac = {
        "max_epipolar_error": options.max_error,
        "max_reproj_error": options.max_error,
        "max_iterations": options.max_num_trials,
        "min_iterations": 100,
        "success_prob": options.confidence,
        "seed": seed,
    }
    epipolar = calibrated(points, drawn, ransac, start) if points.is_calibrated else None
    if epipolar is None:
        epipolar = uncalibrated(points, drawn, ransac, start)
    if epipolar is None or not _is_significant(options, points, epipolar):
        return None
    return _conclude(points, epipolar, ransac), epipolar.inliers


def _is_significant(
    options: VerificationOptions, points: MatchedPoints, epipolar: Epipolar
) -> bool:
    """Are there enough inliers, and more than random matches would have?"""
    count = int(epipolar.inliers.sum())
    if count < options.min_num_inliers:
        return False
    index0, index1 = shuffled(len(points))
    xy0, xy1, sample, solutions = points.xy0, points.xy1, 7, 3
    if epipolar.pose is not None:
        xy0, xy1 = rays(points.camera0, points.xy0), rays(points.camera1, points.xy1)
        sample, solutions = 5, 10
    errors = epipolar_distances(epipolar.fundamental, xy0[index0], xy1[index1])
    chance = chance_of(errors, options.max_error)
    alarms = log_false_alarms(len(points), count, chance, sample, solutions)
    return alarms < options.max_log_false_alarms


def _conclude(
    points: MatchedPoints, epipolar: Epipolar, ransac: Ransac
) -> pycolmap.TwoViewGeometry:
    """All of COLMAP's two-view geometry from an epipolar geometry and its inliers."""
    inliers = points.of(epipolar.inliers)
    geometry = pycolmap.TwoViewGeometry()
    geometry.config = Config.CALIBRATED if epipolar.pose is not None else Config.UNCALIBRATED
    homography, mask = _homography(inliers, ransac)
    if epipolar.pose is not None:
        matrices = points.camera0.calibration_matrix(), points.camera1.calibration_matrix()
        geometry.F = fundamental_of(epipolar.pose, *matrices)
        geometry.cam2_from_cam1 = epipolar.pose
    else:
        geometry.F = epipolar.fundamental
        _add_pose(geometry, inliers)
    if homography is not None:
        geometry.H = homography
    if geometry.cam2_from_cam1 is not None:
        pose = geometry.cam2_from_cam1
        geometry.E = cross(pose.translation) @ pose.rotation.matrix()
        geometry.tri_angle = triangulation_angle(inliers, pose)
    if mask.sum() > MAX_HOMOGRAPHY * len(inliers):
        _tell_planar(geometry, inliers, mask, float(ransac["max_reproj_error"]))
    return geometry


def _homography(points: MatchedPoints, ransac: Ransac) -> tuple[np.ndarray | None, np.ndarray]:
    """A homography (3, 3), or None, and the mask (K,) of the points that it explains."""
    homography, info = poselib.estimate_homography(
        points.xy0, points.xy1, ransac | {"max_iterations": 1000}, {}
    )
    homography, mask = np.asarray(homography), np.array(info["inliers"], dtype=bool)
    if not (np.isfinite(homography).all() and abs(np.linalg.det(homography)) > 0):
        return None, np.zeros(len(points), bool)
    return homography, mask


def _add_pose(geometry: pycolmap.TwoViewGeometry, points: MatchedPoints) -> None:
    """The pose of a fundamental matrix, with the focal lengths that it tells."""
    cameras = focal_lengths(np.asarray(geometry.F), points.camera0, points.camera1)
    every = np.arange(len(points), dtype=np.uint32)
    geometry.inlier_matches = np.stack([every, every], axis=1)  # of these points, for COLMAP
    pycolmap.estimate_two_view_geometry_pose(
        cameras[0], points.xy0, cameras[1], points.xy1, geometry
    )


def focal_lengths(
    fundamental: np.ndarray, camera0: pycolmap.Camera, camera1: pycolmap.Camera
) -> tuple[pycolmap.Camera, pycolmap.Camera]:
    """The cameras with the focal lengths of a fundamental matrix, drawn to the guesses.

    Known focal lengths, and guesses that the estimate is far from, stay. Kocur, Kyselica and
    Kukelova, "Robust Self-calibration of Focal Lengths from the Fundamental Matrix", CVPR 2024.
    """
    cameras = []
    for camera in (camera0, camera1):
        params = [camera.mean_focal_length(), camera.principal_point_x, camera.principal_point_y]
        size = {"width": int(camera.width), "height": int(camera.height)}
        cameras.append({"model": "SIMPLE_PINHOLE", "params": params, **size})
    *found, _ = poselib.focals_from_fundamental_iterative(fundamental, *cameras)
    result = []
    for camera, estimate in zip((camera0, camera1), found, strict=True):
        ratio = estimate.focal() / camera.mean_focal_length()
        is_sane = np.isfinite(ratio) and 1 / FOCAL_RANGE < ratio < FOCAL_RANGE
        copy = copy_camera(camera)
        if is_sane and not camera.has_prior_focal_length:
            params = np.array(copy.params)
            params[list(copy.focal_length_idxs())] *= ratio
            copy.params = params.tolist()
        result.append(copy)
    return result[0], result[1]


def _directions(points: MatchedPoints) -> list[np.ndarray]:
    """Unit vectors (K, 3) along the rays of both images."""
    directions = []
    for camera, xy in ((points.camera0, points.xy0), (points.camera1, points.xy1)):
        found = homogeneous(rays(camera, xy) / camera.mean_focal_length())
        directions.append(found / np.linalg.norm(found, axis=1, keepdims=True))
    return directions


def triangulation_angle(points: MatchedPoints, pose: pycolmap.Rigid3d) -> float:
    """Median angle between the rays of matches, radians."""
    directions = _directions(points)
    turned = directions[0] @ pose.rotation.matrix().T
    sines = np.linalg.norm(np.cross(turned, directions[1]), axis=1)
    return float(np.median(np.arctan2(sines, (turned * directions[1]).sum(axis=1))))


def _tell_planar(
    geometry: pycolmap.TwoViewGeometry, points: MatchedPoints, mask: np.ndarray, max_error: float
) -> None:
    """A plane, or a camera that only turned: then a rotation alone explains the points."""
    geometry.config = Config.PLANAR
    explained = points.of(mask)
    directions = _directions(explained)
    u, _, vt = np.linalg.svd(directions[1].T @ directions[0])
    rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    angles = np.linalg.norm(directions[0] @ rotation.T - directions[1], axis=1)
    errors = angles * explained.camera1.mean_focal_length()
    if (errors <= max_error).mean() > MAX_HOMOGRAPHY:
        geometry.config, geometry.tri_angle = Config.PANORAMIC, 0.0
        geometry.cam2_from_cam1 = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), np.zeros(3))
