"""Spatial verification of matches by a few homographies, each grown from one match.

Philbin et al., "Object retrieval with large vocabularies and fast spatial matching", CVPR 2007, as
InLoc (Taira et al., CVPR 2018) uses it in its sparse pipeline. Keypoints are upright: a match is a
similarity by its place and the ratio of its scales, without a turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from d2_hloc.core.homography_metrics import oriented, transfer
from d2_hloc.core.ranges import MANY, PIXELS, check_ranges

BLOCK = 256  # hypotheses whose errors are computed at once
AFFINE_STEPS, HOMOGRAPHY_STEPS = 3, 2

XY = Float[np.ndarray, "K 2"]  # places of matches, pixels


@dataclass(frozen=True, kw_only=True)
class SpatialVerificationOptions:
    """Largest errors, in pixels of image 1, from a match's similarity to a homography.

    Of at most `num_hypotheses` matches, spread evenly, the `num_grown` whose similarities have most
    inliers are grown. A homography needs `min_num_inliers`; its matches are then set aside and the
    next is looked for among the rest.

    Attributes:
        similarity_error: largest error by a match's similarity, pixels of image 1.
        affine_error: largest error by an affinity, pixels of image 1.
        homography_error: largest error by a homography, pixels of image 1.
        max_homographies: most homographies of a pair.
        min_num_inliers: matches that a homography needs.
        num_hypotheses: most matches whose similarities are tried.
        num_grown: similarities that are grown to homographies.
    """

    similarity_error: float = 20.0
    affine_error: float = 15.0
    homography_error: float = 8.0
    max_homographies: int = 3
    min_num_inliers: int = 10
    num_hypotheses: int = 1000
    num_grown: int = 10

    def __post_init__(self) -> None:
        check_ranges(
            self,
            similarity_error=PIXELS,
            affine_error=PIXELS,
            homography_error=PIXELS,
            max_homographies=(1, 1000),
            min_num_inliers=(4, MANY),
            num_hypotheses=(1, MANY),
            num_grown=(1, MANY),
        )


def verify_spatially(
    options: SpatialVerificationOptions,
    xy0: XY,
    xy1: XY,
    scales0: Float[np.ndarray, " K"],
    scales1: Float[np.ndarray, " K"],
) -> Int[np.ndarray, " L"]:
    """Find the matches that lie on one of a few homographies; their indices, ascending."""
    left, found = np.arange(len(xy0)), []
    for _ in range(options.max_homographies):
        if len(left) < options.min_num_inliers:
            break
        inliers = grow_best(options, xy0[left], xy1[left], scales1[left] / scales0[left])
        if inliers.sum() < options.min_num_inliers:
            break
        found.append(left[inliers])
        left = left[~inliers]
    return np.sort(np.concatenate(found)) if found else np.empty(0, dtype=int)


def grow_best(
    options: SpatialVerificationOptions, xy0: XY, xy1: XY, ratios: Float[np.ndarray, " K"]
) -> Bool[np.ndarray, " K"]:
    """Inliers of the homography of most inliers; `ratios` are the matches' scales, 1 over 0."""
    supports = similarity_inliers(options, xy0, xy1, ratios)
    counts = supports.sum(axis=1)
    best = np.argsort(-counts, kind="stable")[: options.num_grown]
    grown = [grow(options, xy0, xy1, supports[k]) for k in best]
    return max(grown, key=np.count_nonzero)


def similarity_inliers(
    options: SpatialVerificationOptions, xy0: XY, xy1: XY, ratios: Float[np.ndarray, " K"]
) -> Bool[np.ndarray, "M K"]:
    """Masks of the matches that follow the similarity of each of M matches."""
    chosen = np.linspace(0, len(xy0) - 1, min(len(xy0), options.num_hypotheses)).round().astype(int)
    xy0, xy1, ratios = (a.astype(np.float32) for a in (xy0, xy1, ratios))  # half the memory
    masks = []
    for start in range(0, len(chosen), BLOCK):
        block = chosen[start : start + BLOCK]
        # Residuals are linear in a match: what is left of xy1 - r xy0 beyond the hypothesis' own.
        moved = xy1[None] - ratios[block, None, None] * xy0[None]
        offset = moved[np.arange(len(block)), block]
        squared = ((moved - offset[:, None]) ** 2).sum(axis=2)
        masks.append(squared <= options.similarity_error**2)
    return np.concatenate(masks)


def grow(
    options: SpatialVerificationOptions, xy0: XY, xy1: XY, inliers: Bool[np.ndarray, " K"]
) -> Bool[np.ndarray, " K"]:
    """Grow a similarity's inliers by affine maps to a homography's; none where they run out."""
    steps = [(fit_affine, options.affine_error)] * AFFINE_STEPS
    steps += [(fit_homography, options.homography_error)] * HOMOGRAPHY_STEPS
    for fit, max_error in steps:
        if inliers.sum() < options.min_num_inliers:
            return np.zeros(len(xy0), dtype=bool)
        moved = transfer(xy0, oriented(fit(xy0[inliers], xy1[inliers])))
        inliers = np.linalg.norm(xy1 - moved, axis=1) <= max_error
    return inliers


# scikit-image's fits of both kinds minimise other errors, and decompose all of the 2 K equations:
# they are slower by two orders of magnitude for a thousand matches, and not equal.


def fit_affine(xy0: XY, xy1: XY) -> Float[np.ndarray, "3 3"]:
    """Fit an affine map by least squares of image 1's pixels; it comes as a homography."""
    homogeneous = np.c_[xy0, np.ones(len(xy0))]
    solution, *_ = np.linalg.lstsq(homogeneous, xy1, rcond=None)
    return np.vstack([solution.T, [0.0, 0.0, 1.0]])


def fit_homography(xy0: XY, xy1: XY) -> Float[np.ndarray, "3 3"]:
    """Fit a homography of least algebraic error on normalised points (Hartley, PAMI 1997)."""
    to0, to1 = _normalisation(xy0), _normalisation(xy1)
    x, y = xy1[:, :1] * to1[0, 0] + to1[0, 2], xy1[:, 1:] * to1[1, 1] + to1[1, 2]
    points = np.c_[xy0, np.ones(len(xy0))] @ to0.T
    zero = np.zeros_like(points)
    equations = np.vstack([np.c_[points, zero, -x * points], np.c_[zero, points, -y * points]])
    _, vectors = np.linalg.eigh(equations.T @ equations)
    return np.linalg.inv(to1) @ vectors[:, 0].reshape(3, 3) @ to0


def _normalisation(xy: XY) -> Float[np.ndarray, "3 3"]:
    """Bring points to mean 0 and deviation 1 in each axis."""
    mean, deviation = xy.mean(axis=0), np.maximum(xy.std(axis=0), 1.0)  # of points on a line, 0
    x, y = -mean / deviation
    return np.array([[1 / deviation[0], 0, x], [0, 1 / deviation[1], y], [0, 0, 1]])
