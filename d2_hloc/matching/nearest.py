"""Exact nearest-neighbour matching: two sets of descriptors -> Matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from d2_hloc.core.ranges import MANY, RATIOS, check_ranges
from d2_hloc.core.structs import Matches
from d2_hloc.matching.neighbours import Neighbours, nearest_neighbours
from d2_hloc.matching.prepared import PreparedDescriptors, prepare_descriptors

ROUNDING = 1e-5  # of a squared distance in float32: a second neighbour nearer than that is equal


@dataclass(frozen=True, kw_only=True)
class MatchingOptions:
    """Rule of matching, by nearest neighbours or by the learned matcher.

    Of 'nearest' are `mutual` and the thresholds, which apply to both directions, as in hloc and
    COLMAP. `ratio_threshold`: largest distance to the first neighbour over distance to the second.
    `distance_threshold`: largest Euclidean distance of unit descriptors, at most 2.

    Of 'lightglue' are its `weights`, bundled ones or a file; `min_score`, which a match has to
    exceed (None: what was chosen for the feature's matcher); and `precision`.
    """

    matcher: Literal["nearest", "lightglue"] = "nearest"
    mutual: bool = True
    ratio_threshold: float | None = None
    distance_threshold: float | None = None
    weights: str = "d2_lightglue"
    min_score: float | None = None
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    min_matches: int = 0  # fewer are none

    def __post_init__(self) -> None:
        check_ranges(
            self,
            ratio_threshold=RATIOS,
            distance_threshold=(1e-3, 2),
            min_score=(0, 1),
            min_matches=(0, MANY),
        )
        for name in ("ratio_threshold", "distance_threshold"):
            if getattr(self, name) is not None and self.matcher != "nearest":
                raise ValueError(f"{name} is of matcher 'nearest', not of {self.matcher!r}.")


def accepted(
    neighbours: Neighbours, ratio_threshold: float | None, distance_threshold: float | None
) -> Bool[Tensor, " N"]:
    """Mask of the neighbours that pass the thresholds; None is no threshold."""
    keep = torch.ones_like(neighbours.indices, dtype=torch.bool)
    squared, squared_second = 2 * (1 - neighbours.first), 2 * (1 - neighbours.second)
    if ratio_threshold is not None:
        keep &= squared <= ratio_threshold**2 * squared_second
        keep &= squared_second > ROUNDING  # or rounding would decide among equal descriptors
    if distance_threshold is not None:
        keep &= squared <= distance_threshold**2
    return keep


def match_descriptors(
    descriptors0: Float[Tensor, "N0 D0"] | PreparedDescriptors,
    descriptors1: Float[Tensor, "N1 D1"] | PreparedDescriptors,
    options: MatchingOptions | None = None,
) -> Matches:
    """Match unit descriptors; half precision is widened. Memory does not grow with N0 x N1.

    Descriptors that are in many pairs are prepared once, by neighbours.prepare_descriptors().

    Raises:
        ValueError: if the descriptors' widths differ.
    """
    options = options or MatchingOptions()
    set0, set1 = _prepared(descriptors0), _prepared(descriptors1)
    if set0.exact.shape[1] != set1.exact.shape[1]:
        raise ValueError(
            f"Descriptors of {set0.exact.shape[1]} and {set1.exact.shape[1]} numbers cannot "
            "be matched: they come from different features."
        )
    if len(set0) == 0 or len(set1) == 0:
        return _none(set0.exact)
    # As hloc: a single descriptor has no second neighbour, and then no ratio is asked of either.
    ratio = options.ratio_threshold if min(len(set0), len(set1)) > 1 else None
    forward, backward = nearest_neighbours(set0, set1, with_second=ratio is not None)
    keep = accepted(forward, ratio, options.distance_threshold)
    if options.mutual:
        keep &= accepted(backward, ratio, options.distance_threshold)[forward.indices]
        keep &= backward.indices[forward.indices] == torch.arange(len(set0), device=keep.device)
    rows = keep.nonzero()[:, 0]
    if len(rows) < options.min_matches:
        return _none(set0.exact)
    pairs = torch.stack([rows, forward.indices[rows]], dim=1)
    return Matches(pairs=pairs, scores=((forward.first[rows] + 1) / 2).clamp(0, 1))


def _prepared(descriptors: Tensor | PreparedDescriptors) -> PreparedDescriptors:
    if isinstance(descriptors, PreparedDescriptors):
        return descriptors
    return prepare_descriptors(torch.as_tensor(descriptors))


def _none(like: Tensor) -> Matches:
    return Matches(
        pairs=torch.empty(0, 2, dtype=torch.int64, device=like.device),
        scores=torch.empty(0, device=like.device),
    )
