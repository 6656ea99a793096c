"""Local consistency of matches: around a right match, its neighbours move alike.

A match and one neighbour give a similarity (scale, rotation, shift) from image 0 to image 1. Other
neighbours that it brings to where they were matched support the match, each the more the less
likely it does so by chance: one that is matched at random anywhere in image 1 would be there with a
probability of pi r^2 over the image's area. The best of the similarities counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

CHUNK = 512  # matches at once; bounds memory
TOLERANCE = 4.0  # pixels, for two keypoints a few pixels apart
SLOPE = 0.1  # pixels more a pixel of distance: perspective, and relief
MAX_SCALE = 3.0  # between the images, either way
CLOSEST = 4.0  # pixels; nearer neighbours are the same place once more


@dataclass(frozen=True, kw_only=True)
class LocalConsistency:
    """How well each match agrees with the matches around it."""

    support: np.ndarray  # (K,) negative logarithm of the chance to see such agreement
    similarities: np.ndarray  # (K,) complex: an offset in image 0 times it is one in image 1


def local_consistency(
    xy0: np.ndarray,
    xy1: np.ndarray,
    area1: float,
    *,
    neighbours: int = 32,
    noise: float = 1.0,
) -> LocalConsistency:
    """Support of each match by its nearest `neighbours` in image 0.

    `xy0`, `xy1` (K, 2) are matched keypoints in pixels, `area1` the second image's width times
    height. `noise` multiplies the tolerance: the pixels of the image in one pixel of that which
    keypoints were found in.
    """
    count = min(neighbours, len(xy0) - 1)
    support, similarities = np.zeros(len(xy0)), np.ones(len(xy0), np.complex64)
    if count < 2:
        return LocalConsistency(support=support, similarities=similarities)
    places0, places1 = _complex(xy0), _complex(xy1)
    index = _others(xy0, count)
    for start in range(0, len(xy0), CHUNK):
        rows = slice(start, start + CHUNK)
        offsets0 = places0[index[rows]] - places0[rows, None]
        offsets1 = places1[index[rows]] - places1[rows, None]
        support[rows], similarities[rows] = _best_similarity(offsets0, offsets1, area1, noise)
    return LocalConsistency(support=support, similarities=similarities)


def _complex(xy: np.ndarray) -> np.ndarray:
    """Points (K, 2) -> x + iy; a similarity is then a product."""
    return (xy[:, 0] + 1j * xy[:, 1]).astype(np.complex64)


def _others(xy: np.ndarray, count: int) -> np.ndarray:
    """Indices (K, count) of each point's nearest others. Its equals may come before itself."""
    index = np.asarray(KDTree(xy).query(xy, k=count + 1)[1])
    is_own = index == np.arange(len(xy))[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    return index[~is_own].reshape(len(xy), count)


def _best_similarity(
    offsets0: np.ndarray, offsets1: np.ndarray, area1: float, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Support (k,) and similarity (k,) from neighbours' offsets (k, n) in the two images."""
    lengths = np.abs(offsets0)
    is_apart = lengths > CLOSEST * noise
    similarities = offsets1 / np.where(is_apart, offsets0, 1)
    scales = np.abs(similarities)
    is_sensible = is_apart & (scales < MAX_SCALE) & (scales > 1 / MAX_SCALE)
    tolerances = noise * TOLERANCE + SLOPE * lengths
    surprise = -np.log(np.minimum(1.0, np.pi * tolerances**2 / area1))
    # [match, similarity, neighbour]
    residuals = np.abs(offsets1[:, None] - similarities[:, :, None] * offsets0[:, None])
    agrees = (residuals < tolerances[:, None]) & is_apart[:, None]
    support = np.einsum("khn,kn->kh", agrees, surprise)
    support -= surprise  # the neighbour that gives a similarity agrees with it in any case
    support[~is_sensible] = 0.0
    best = support.argmax(axis=1)
    every = np.arange(len(best))
    chosen = np.where(is_sensible[every, best], similarities[every, best], 1)
    return support[every, best], chosen
