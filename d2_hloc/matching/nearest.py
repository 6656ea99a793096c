"""Exact nearest-neighbour matching: two sets of descriptors -> Matches."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from d2_hloc.core.structs import Matches
from d2_hloc.matching.neighbours import Neighbours, nearest_neighbours
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.matching.prepared import PreparedDescriptors, prepare_descriptors

ROUNDING = 1e-5  # of a squared distance in float32: a second neighbour nearer than that is equal


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
        return Matches.none(set0.exact.device)
    # As hloc: a single descriptor has no second neighbour, and then no ratio is asked of either.
    ratio = options.ratio_threshold if min(len(set0), len(set1)) > 1 else None
    forward, backward = nearest_neighbours(set0, set1, with_second=ratio is not None)
    keep = accepted(forward, ratio, options.distance_threshold)
    if options.mutual:
        keep &= accepted(backward, ratio, options.distance_threshold)[forward.indices]
        keep &= backward.indices[forward.indices] == torch.arange(len(set0), device=keep.device)
    rows = keep.nonzero()[:, 0]
    if len(rows) < options.min_matches:
        return Matches.none(set0.exact.device)
    pairs = torch.stack([rows, forward.indices[rows]], dim=1)
    return Matches(pairs=pairs, scores=((forward.first[rows] + 1) / 2).clamp(0, 1))


def _prepared(descriptors: Tensor | PreparedDescriptors) -> PreparedDescriptors:
    if isinstance(descriptors, PreparedDescriptors):
        return descriptors
    return prepare_descriptors(torch.as_tensor(descriptors))
