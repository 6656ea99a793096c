"""Errors of matches, keypoints and homographies between images of planes, each one function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import KDTree


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
    return np.all((xy >= 0) & (xy <= np.array(size) - 1), axis=1)


def nearest_distances(xy: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance (N,) of each point (N, 2) to the nearest of the others (M, 2); infinite for none."""
    if len(others) == 0:
        return np.full(len(xy), np.inf)
    return KDTree(others).query(xy)[0]


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
