"""Choice of views to compare a view with, and of its range of depths, by the model's points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

BEST_ANGLE = 10.0  # degrees between two rays to a point: precise, and yet they look alike
SPREADS = 5.0, 15.0  # degrees below and above it
CANDIDATES = 30  # views whose angles are looked at, those of most shared points
PERCENTILES = 1, 99  # of the points' depths: the rest may be wrong
MARGIN = 0.25  # of the depths, on both sides

Indices = Int[np.ndarray, " _"]


def choose_sources(
    points: Float[np.ndarray, "P 3"],
    seen: Sequence[Indices],
    centres: Float[np.ndarray, "V 3"],
    count: int,
) -> list[list[int]]:
    """Indices of up to `count` other views per view, best first.

    `seen` are the indices of each view's points, `centres` the cameras' places in the world. Views
    score by shared points, those under a good angle counting most.
    """
    shared = shared_points(seen, len(points))
    chosen = []
    for view, row in enumerate(shared):
        candidates = [k for k in np.argsort(-row, kind="stable")[: CANDIDATES + 1] if row[k] > 0]
        scores = {
            int(k): _score(points[np.intersect1d(seen[view], seen[k])], centres[view], centres[k])
            for k in candidates
            if k != view
        }
        ranked = sorted(scores, key=lambda k: -scores[k])
        chosen.append([k for k in ranked if scores[k] > 0][:count])
    return chosen


def shared_points(seen: Sequence[Indices], num_points: int) -> Int[np.ndarray, "V V"]:
    """Numbers of points that each two views share; on the diagonal, those that each has."""
    lengths = [len(s) for s in seen]
    rows = np.repeat(np.arange(len(seen)), lengths)
    columns = np.concatenate([*seen, np.zeros(0, np.int64)])
    visible = sparse.csr_array(
        (np.ones(len(rows), np.int32), (rows, columns)), shape=(len(seen), num_points)
    )
    return (visible @ visible.T).toarray()


def _score(
    points: Float[np.ndarray, "P 3"],
    centre0: Float[np.ndarray, " 3"],
    centre1: Float[np.ndarray, " 3"],
) -> float:
    ray0, ray1 = points - centre0, points - centre1
    lengths = np.linalg.norm(ray0, axis=1) * np.linalg.norm(ray1, axis=1)
    cosine = (ray0 * ray1).sum(axis=1) / np.maximum(lengths, 1e-12)
    excess = np.degrees(np.arccos(np.clip(cosine, -1, 1))) - BEST_ANGLE
    spread = np.where(excess < 0, *SPREADS)
    return float(np.exp(-0.5 * (excess / spread) ** 2).sum())


def depth_range(depths: Float[np.ndarray, " N"]) -> tuple[float, float] | None:
    """Nearest and farthest depth to search, from a view's points; None where none is in front."""
    depths = depths[depths > 0]
    if not len(depths):
        return None
    near, far = np.percentile(depths, PERCENTILES)
    return float(near * (1 - MARGIN)), float(far * (1 + MARGIN))
