"""Are a pair's inliers more than what random matches would give?

A geometry chosen to have many inliers has some among matches of nothing at all: the more, the more
matches there are and the wider the band. The expected number of geometries as good among random
matches is Moisan and Stival's number of false alarms, "A probabilistic criterion to detect rigid
point matches between two images", IJCV 2004.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

SHUFFLES = 8  # pairings of the same keypoints, each with all of them


def log_false_alarms(
    num_matches: int, num_inliers: int, chance: float, sample: int, solutions: int
) -> float:
    """Decimal logarithm of the expected number of geometries with so many inliers by chance.

    `chance` is the probability of a random match to be an inlier of a given geometry, `sample` the
    number of matches that determine one, up to `solutions` of them.
    """
    if num_inliers <= sample:
        return float(np.log10(max(1, num_matches)) + np.log10(solutions))
    log_chance = np.log(max(chance, 1e-12))
    log_number = (
        np.log(solutions * max(1, num_matches - sample))
        + _log_choose(num_matches, num_inliers)
        + _log_choose(num_inliers, sample)
        + (num_inliers - sample) * log_chance
    )
    return float(log_number / np.log(10))


def _log_choose(n: int, k: int) -> float:
    return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))


def shuffled(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (M,), (M,) that pair each of `count` matches with keypoints of others."""
    shifts = np.unique(np.linspace(1, count - 1, min(SHUFFLES, max(0, count - 1))).astype(int))
    index0 = np.tile(np.arange(count), len(shifts))
    index1 = np.concatenate([np.roll(np.arange(count), s) for s in shifts] or [np.empty(0, int)])
    return index0, index1


def chance_of(errors: np.ndarray, max_error: float) -> float:
    """Share of random matches within `max_error`, never 0: there were so many that were not."""
    return float(((errors <= max_error).sum() + 1) / (len(errors) + 1))
