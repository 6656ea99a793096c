"""Errors of poses and models against ground truth, each one function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree


def rotation_error(rotation0: np.ndarray, rotation1: np.ndarray) -> float:
    """Angle between two rotations (3, 3), degrees: arccos((tr(R0^T R1) - 1) / 2), stably."""
    chord = np.linalg.norm(rotation0 - rotation1) / np.sqrt(8)
    return float(np.degrees(2 * np.arcsin(min(1.0, chord))))


def camera_centre(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Centre of a world-to-camera pose: -R^T t."""
    return -rotation.T @ translation


def recall(errors: list[tuple[float, float]], thresholds: list[tuple[float, float]]) -> list[float]:
    """Share of (position, rotation) errors within each (metres, degrees), as on
    visuallocalization.net. A query without a pose has infinite errors."""
    if not errors:
        return [0.0 for _ in thresholds]
    return [
        sum(p <= metres and r <= degrees for p, r in errors) / len(errors)
        for metres, degrees in thresholds
    ]


def align_similarity(
    source: np.ndarray, target: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale s, rotation R and translation t that bring s R x + t nearest to the target.

    Points are (N, 3). Umeyama, "Least-squares estimation of transformation parameters between two
    point patterns", PAMI 1991.

    Raises:
        ValueError: for fewer than three points, or points on a line.
    """
    if source.shape != target.shape:
        raise ValueError(f"Points of shapes {source.shape} and {target.shape} cannot be aligned.")
    if len(source) < 3:
        raise ValueError(f"Alignment needs three points at least, not {len(source)}.")
    mean0, mean1 = source.mean(axis=0), target.mean(axis=0)
    centred0, centred1 = source - mean0, target - mean1
    u, singular, vt = np.linalg.svd(centred1.T @ centred0 / len(source))
    if singular[1] <= 1e-12 * singular[0]:
        raise ValueError("Alignment needs points that do not lie on a line.")
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(signs) @ vt
    scale = float((singular * signs).sum() / centred0.var(axis=0).sum())
    return scale, rotation, mean1 - scale * rotation @ mean0


def transfer_errors(xy0: np.ndarray, xy1: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """Distances (K,), in pixels of image 1, of its points (K, 2) from their partners in image 0,
    which the homography (3, 3) moves there; infinite where it moves them to its horizon or behind.

    The reprojection error of Dusmanu et al., CVPR 2019, Section 5.1.
    """
    return np.linalg.norm(xy1 - transfer(xy0, oriented(homography)), axis=1)


def oriented(homography: np.ndarray) -> np.ndarray:
    """The homography (3, 3), which is one up to a factor, with image 0's corner before its horizon
    rather than behind: between two photographs, that is where all that both see is."""
    return homography * (-1.0 if homography[2, 2] < 0 else 1.0)


def transfer(xy: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """Points (K, 2) moved by an oriented homography (3, 3) or the inverse of one; infinite where it
    moves them to its horizon or behind."""
    moved = np.concatenate([xy, np.ones((len(xy), 1))], axis=1) @ homography.T
    is_before = moved[:, 2] > 0
    depth = np.where(is_before, moved[:, 2], 1.0)
    return np.where(is_before[:, None], moved[:, :2] / depth[:, None], np.inf)


def matching_accuracy(errors: np.ndarray, thresholds: Sequence[float]) -> list[float]:
    """Share of a pair's matches whose error is at most each threshold; 0 where there is no match.

    Mikolajczyk & Schmid, PAMI 2005 (1 - its "1 - precision"). The mean over pairs is the mean
    matching accuracy of Dusmanu et al., CVPR 2019, Section 5.1.
    """
    if len(errors) == 0:
        return [0.0 for _ in thresholds]
    return [float((errors <= threshold).mean()) for threshold in thresholds]


def repeatability(
    xy0: np.ndarray,
    xy1: np.ndarray,
    homography: np.ndarray,
    size0: tuple[int, int],
    size1: tuple[int, int],
    threshold: float = 3.0,
) -> float:
    """Share of the keypoints in view of both images that have one of the other within `threshold`.

    Keypoints are (N0, 2) and (N1, 2), sizes (w, h), distances in the image that a keypoint is moved
    to. DeTone et al., "SuperPoint", CVPRW 2018, Appendix B. 0 where no keypoint is in view of both.
    """
    homography = oriented(homography)
    seen0, seen1 = shared_view(xy0, xy1, homography, size0, size1)
    forward, backward = transfer(xy0, homography), transfer(xy1, np.linalg.inv(homography))
    found0 = nearest_distances(forward[seen0], xy1[seen1]) <= threshold
    found1 = nearest_distances(backward[seen1], xy0[seen0]) <= threshold
    count = len(found0) + len(found1)
    return float((found0.sum() + found1.sum()) / count) if count else 0.0


def matching_score(
    errors: np.ndarray,
    xy0: np.ndarray,
    xy1: np.ndarray,
    homography: np.ndarray,
    size0: tuple[int, int],
    size1: tuple[int, int],
    threshold: float = 3.0,
) -> float:
    """Right matches over the features in view of both images, the mean of both images' shares.

    `errors` are the matches' (K,), the rest as for repeatability(). DeTone et al., "SuperPoint",
    CVPRW 2018, Appendix B; after Mikolajczyk & Schmid, PAMI 2005. 0 where nothing is in view.
    """
    counts = [mask.sum() for mask in shared_view(xy0, xy1, homography, size0, size1)]
    right = (errors <= threshold).sum()
    return float(np.mean([min(1.0, right / count) if count else 0.0 for count in counts]))


def shared_view(
    xy0: np.ndarray,
    xy1: np.ndarray,
    homography: np.ndarray,
    size0: tuple[int, int],
    size1: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (N0,) and (N1,) of the keypoints that the homography keeps in the other image."""
    homography = oriented(homography)
    return (
        _is_inside(transfer(xy0, homography), size1),
        _is_inside(transfer(xy1, np.linalg.inv(homography)), size0),
    )


def _is_inside(xy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return ((xy >= 0) & (xy <= np.array(size) - 1)).all(axis=1)


def nearest_distances(xy: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance (N,) of each point (N, 2) to the nearest of the others (M, 2); infinite for none."""
    if len(others) == 0:
        return np.full(len(xy), np.inf)
    return cKDTree(others).query(xy)[0]


def corner_error(estimated: np.ndarray, truth: np.ndarray, size: tuple[int, int]) -> float:
    """Mean distance, pixels, of an image's corners moved by two homographies; size is (w, h).
    Infinite where one of them moves a corner behind its horizon.

    The homography accuracy of DeTone et al., "SuperPoint", CVPRW 2018, Section 6.2, is the share of
    pairs for which it is small.
    """
    width, height = size
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])
    moved, target = transfer(corners, oriented(estimated)), transfer(corners, oriented(truth))
    if not (np.isfinite(moved).all() and np.isfinite(target).all()):
        return float("inf")
    return float(np.linalg.norm(moved - target, axis=1).mean())


def error_auc(errors: Sequence[float], thresholds: Sequence[float]) -> list[float]:
    """Area under the curve of recall over error, up to each threshold and divided by it.

    Recall rises to k / n at the k-th smallest of the n errors, in straight lines from (0, 0); an
    infinite error is never recalled. Sarlin et al., "SuperGlue", CVPR 2020, Section 5.2.
    """
    if len(errors) == 0:
        return [0.0 for _ in thresholds]
    ordered = np.concatenate([[0.0], np.sort(np.asarray(errors, dtype=float))])
    recalls = np.arange(len(ordered)) / len(errors)
    areas = []
    for threshold in thresholds:
        last = int(np.searchsorted(ordered, threshold, side="right"))
        x = np.append(ordered[:last], threshold)
        y = np.append(recalls[:last], recalls[last - 1])
        areas.append(float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / threshold))
    return areas


def direction_error(translation0: np.ndarray, translation1: np.ndarray) -> float:
    """Angle between the lines of two translations (3,), degrees, at most 90.

    Two views tell neither the length nor, as it is measured in the literature, the sign: Yi et al.,
    "Learning to find good correspondences", CVPR 2018; Sarlin et al., "SuperGlue", CVPR 2020.

    Raises:
        ValueError: for a translation of length zero, which has no direction.
    """
    lengths = np.linalg.norm(translation0), np.linalg.norm(translation1)
    if min(lengths) == 0:
        raise ValueError("A translation of length zero has no direction.")
    unit0, unit1 = translation0 / lengths[0], translation1 / lengths[1]
    sine, cosine = np.linalg.norm(np.cross(unit0, unit1)), abs(float(unit0 @ unit1))
    return float(np.degrees(np.arctan2(sine, cosine)))


def relative_pose_error(
    rotation: np.ndarray,
    translation: np.ndarray,
    true_rotation: np.ndarray,
    true_translation: np.ndarray,
) -> float:
    """The larger of the angles of rotation (3, 3) and translation (3,), degrees.

    Yi et al., CVPR 2018; its area under the curve is the measure of Sarlin et al., CVPR 2020.
    """
    return max(
        rotation_error(rotation, true_rotation), direction_error(translation, true_translation)
    )
