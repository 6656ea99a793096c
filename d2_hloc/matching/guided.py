"""Guided matching: a second look along the epipolar lines that a first geometry gives.

The nearest of all descriptors loses matches where something far away looks alike. Near its epipolar
line, and near where the matches around it lead, a keypoint has few candidates; the most similar one
is then right more often, and a looser ratio, or none, is asked of it.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from d2_hloc.matching.consistency import local_consistency
from d2_hloc.matching.options import GuidedOptions

DENSE = 60  # products a candidate, that a matrix product makes in the time of one copy

Cells = tuple[np.ndarray, np.ndarray]  # keypoint in image 0, in image 1


def epipolar_distances(fundamental: np.ndarray, xy0: np.ndarray, xy1: np.ndarray) -> np.ndarray:
    """Sampson distances (K,) of matched points (K, 2) to their epipolar lines, pixels."""
    points0, points1 = homogeneous(xy0), homogeneous(xy1)
    lines1, lines0 = points0 @ fundamental.T, points1 @ fundamental
    squared = (lines1[:, :2] ** 2).sum(axis=1) + (lines0[:, :2] ** 2).sum(axis=1)
    return np.abs((points1 * lines1).sum(axis=1)) / np.sqrt(np.maximum(squared, 1e-24))


def transfer_distances(homography: np.ndarray, xy0: np.ndarray, xy1: np.ndarray) -> np.ndarray:
    """Distances (K,) in image 1 between points and those that a homography brings there, pixels."""
    moved = homogeneous(xy0) @ homography.T
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.linalg.norm(moved[:, :2] / moved[:, 2:] - xy1, axis=1)
    return np.where(np.isfinite(distances), distances, np.inf)


def homogeneous(xy: np.ndarray) -> np.ndarray:
    """Points (K, 2) -> (K, 3) with a 1."""
    return np.concatenate([xy, np.ones((len(xy), 1))], axis=1)


def guided_matches(
    options: GuidedOptions,
    keypoints: tuple[np.ndarray, np.ndarray],
    descriptors: tuple[np.ndarray, np.ndarray],
    anchors: tuple[np.ndarray, np.ndarray],
    geometry: tuple[str, np.ndarray] | None,
    max_error: float,
    noise: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Mutual nearest neighbours among candidates that fit a geometry.

    Args:
        options: where candidates are looked for, and their ratio.
        keypoints: (N0, 2), (N1, 2), pixels.
        descriptors: (N0, D), (N1, D), of unit length.
        anchors: (K, 2), (K, 2), places in both images that are known to match, pixels: those of
            the matches that the geometry was estimated from, or of 3D points.
        geometry: "F" with a fundamental matrix, or "H" with a homography, from image 0 to 1; with
            None all candidates about the anchors' places fit.
        max_error: largest distance to the epipolar line, or to the homography's place, pixels.
        noise: pixels of the images in one of those that keypoints were found in.

    Returns:
        Keypoint indices (M, 2) and cosines (M,); among them most of the matches that the anchors
        are of.
    """
    cells = _near_predictions(options, keypoints, anchors, noise)
    if geometry is not None:
        distances = epipolar_distances if geometry[0] == "F" else transfer_distances
        fits = distances(geometry[1], keypoints[0][cells[0]], keypoints[1][cells[1]]) <= max_error
        cells = cells[0][fits], cells[1][fits]
    cosines = _cosines(*descriptors, cells)
    return mutual_best(cells, cosines, options.ratio_threshold)


def _near_predictions(
    options: GuidedOptions,
    keypoints: tuple[np.ndarray, np.ndarray],
    anchors: tuple[np.ndarray, np.ndarray],
    noise: float,
) -> Cells:
    """Candidates of all keypoints of image 0, about where the nearest anchor leads."""
    from0, to1 = anchors
    if len(from0) < 3 or not all(map(len, keypoints)):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    area1 = float(np.prod(np.ptp(keypoints[1], axis=0) + 1))
    turns = local_consistency(from0, to1, area1, noise=noise).similarities
    distances, nearest = KDTree(from0).query(keypoints[0])
    offsets = keypoints[0] - from0[nearest]
    moved = (offsets[:, 0] + 1j * offsets[:, 1]) * turns[nearest]
    predicted = to1[nearest] + np.stack([moved.real, moved.imag], axis=1)
    radii = noise * options.radius + options.slope * distances
    found = KDTree(keypoints[1]).query_ball_point(predicted, radii, return_sorted=True)
    counts = [len(f) for f in found]
    index1 = np.concatenate([np.asarray(f, np.int64) for f in found])
    return np.repeat(np.arange(len(found)), counts), index1


def _cosines(descriptors0: np.ndarray, descriptors1: np.ndarray, cells: Cells) -> np.ndarray:
    """Products of candidates' descriptors, some at a time; cells[0] is sorted.

    Where candidates are many, all products of some rows are faster than copies of descriptors.
    """
    parts = [np.empty(0, np.float32)]
    if len(descriptors0) * len(descriptors1) > DENSE * len(cells[0]):
        for start in range(0, len(cells[0]), 4096):
            rows0, rows1 = (c[start : start + 4096] for c in cells)
            parts.append(np.einsum("kd,kd->k", descriptors0[rows0], descriptors1[rows1]))
        return np.concatenate(parts)
    for start in range(0, len(descriptors0), 256):
        first, last = np.searchsorted(cells[0], [start, start + 256])
        products = descriptors0[start : start + 256] @ descriptors1.T
        parts.append(products[cells[0][first:last] - start, cells[1][first:last]])
    return np.concatenate(parts)


def mutual_best(
    cells: Cells, cosines: np.ndarray, ratio_threshold: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates that are the most similar of both their keypoints, and pass the ratio of both.

    Returns keypoint indices (M, 2), ordered by the first, and cosines (M,).
    """
    (best0, second0), (best1, second1) = (_two_best(c, cosines) for c in cells)
    keep = best0 & best1
    distances = [np.sqrt(np.maximum(2 - 2 * v, 0)) for v in (cosines, second0, second1)]
    rival = np.minimum(distances[1], distances[2])
    keep &= (distances[0] <= ratio_threshold * rival) & (distances[0] < rival)
    found = np.stack([cells[0][keep], cells[1][keep]], axis=1)
    order = np.argsort(found[:, 0], kind="stable")
    return found[order], cosines[keep][order]


def _two_best(group: np.ndarray, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mask (C,) of each group's most similar candidates, and for them the second's cosine, or -1.

    Where several are alike, each is the second of the others.
    """
    count = int(group.max(initial=-1)) + 1
    best, second = (np.full(count, -np.inf, cosines.dtype) for _ in range(2))
    np.maximum.at(best, group, cosines)
    is_first = cosines == best[group]
    np.maximum.at(second, group[~is_first], cosines[~is_first])
    is_shared = np.bincount(group[is_first], minlength=count) > 1
    second[is_shared] = best[is_shared]
    return is_first, np.where(is_first, np.maximum(second, -1)[group], -1.0)
