"""Scores of pairs with known homographies (a step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from d2_hloc.benchmarks.hpatches.data import HomographyPair
from d2_hloc.benchmarks.pair_scores import (
    MatchedPair,
    PairScore,
    Refine,
    pair_store,
    score_pairs,
)
from d2_hloc.core import config, homography_metrics
from d2_hloc.core.pixels import to_colmap
from d2_hloc.core.ranges import PIXELS, check_ranges
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap
from d2_hloc.matching.match_pairs import MatchedPairs

THRESHOLDS = tuple(range(1, 16))  # pixels, as the cache files of other papers have them
FEWEST = 4  # matches that determine a homography


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """Largest errors, in pixels.

    Repeatability and matching score count a keypoint as found within `threshold`. A homography's
    inliers are within `ransac_error`.

    Attributes:
        threshold: error within which repeatability and matching score count a keypoint,
            pixels.
        ransac_error: largest error of a homography's inlier, pixels.
    """

    threshold: float = 3.0
    ransac_error: float = 3.0

    def __post_init__(self) -> None:
        check_ranges(self, threshold=PIXELS, ransac_error=PIXELS)


@dataclass(frozen=True, kw_only=True)
class HomographyScore(PairScore):
    """Scores of one pair of images."""

    sequence: str
    num_features0: int
    num_features1: int
    accuracy: tuple[float, ...]  # share of right matches at THRESHOLDS
    repeatability: float
    matching_score: float
    corner_error: float | None  # pixels; None where no homography is found


def score_homographies(
    options: ScoringOptions,
    pairs: Sequence[HomographyPair],
    features: Path,
    matches: MatchedPairs,
    output: Path,
    refine: Refine | None = None,
) -> list[HomographyScore]:
    """Score the pairs that were matched, one at a time, into `output`; those that are done stay.

    `refine` may move matched keypoints before their errors are measured.

    Raises:
        StorageError: if a features or matches file cannot be used.
        ConfigurationChanged: if `output` was made with another configuration.
    """
    made_by = {
        "scoring": config.to_dict(options),
        "is_refined": refine is not None,
        "matches": features_h5.read_configuration(matches.path),
    }
    store = pair_store(output, made_by, HomographyScore, matches.path)
    return score_pairs(pairs, features, matches, store, partial(score_homography, options), refine)


def score_homography(
    options: ScoringOptions, pair: HomographyPair, found: MatchedPair
) -> HomographyScore:
    """Score one pair."""
    errors = homography_metrics.transfer_errors(*found.matched, pair.homography)
    view = *found.keypoints, pair.homography, *found.sizes, options.threshold
    estimated = estimate_homography(*found.matched, options.ransac_error)
    return HomographyScore(
        sequence=pair.sequence,
        name0=pair.name0,
        name1=pair.name1,
        num_features0=len(found.keypoints[0]),
        num_features1=len(found.keypoints[1]),
        num_matches=len(errors),
        accuracy=tuple(homography_metrics.matching_accuracy(errors, THRESHOLDS)),
        repeatability=homography_metrics.repeatability(*view),
        matching_score=homography_metrics.matching_score(errors, *view),
        corner_error=_corner_error(estimated, pair.homography, found.sizes[0]),
    )


def estimate_homography(
    xy0: Float[np.ndarray, "K 2"], xy1: Float[np.ndarray, "K 2"], max_error: float
) -> Float[np.ndarray, "3 3"] | None:
    """Estimate the homography (3, 3) of most inliers by COLMAP's LO-RANSAC, if there is one."""
    if len(xy0) < FEWEST:
        return None
    options = pycolmap.RANSACOptions(max_error=max_error, random_seed=0)
    found = pycolmap.estimate_homography_matrix(to_colmap(xy0), to_colmap(xy1), options)
    if found is None:
        return None
    shift = np.eye(3)
    shift[:2, 2] = to_colmap(np.zeros(2))
    return np.linalg.inv(shift) @ found["H"] @ shift


def _corner_error(
    estimated: Float[np.ndarray, "3 3"] | None,
    truth: Float[np.ndarray, "3 3"],
    size: tuple[int, int],
) -> float | None:
    if estimated is None:
        return None
    error = homography_metrics.corner_error(estimated, truth, size)
    return error if np.isfinite(error) else None
