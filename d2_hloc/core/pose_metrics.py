"""Errors of poses and models against ground truth, each one function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
