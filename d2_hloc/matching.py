"""Exact nearest-neighbour matching in blocks: two sets of descriptors -> Matches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d2_hloc.structs import Matches

BLOCK_BYTES = 128 << 20  # of similarities at once
ROUNDING = 1e-5  # of a squared distance in float32: a second neighbour nearer than that is equal


@dataclass(frozen=True, kw_only=True)
class MatchingOptions:
    """Which nearest neighbours count. Thresholds apply to both directions, as in hloc and COLMAP.

    `ratio_threshold`: largest distance to the first neighbour over distance to the second.
    `distance_threshold`: largest Euclidean distance of unit descriptors, at most 2.
    """

    mutual: bool = True
    ratio_threshold: float | None = None
    distance_threshold: float | None = None
    min_matches: int = 0  # fewer are none

    def __post_init__(self) -> None:
        for name in ("ratio_threshold", "distance_threshold"):
            value = getattr(self, name)
            if value is not None and not value > 0:  # nor NaN
                raise ValueError(f"{name} must be positive, not {value}.")


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """For each row: the most similar column, its similarity, and the next best similarity."""

    indices: Int[Tensor, " N"]
    first: Float[Tensor, " N"]
    second: Float[Tensor, " N"]  # -inf where there is no second

    def accepted(self, options: MatchingOptions, with_ratio: bool) -> Tensor:
        """Mask of those that pass the ratio and distance thresholds."""
        keep = torch.ones_like(self.indices, dtype=torch.bool)
        squared, squared_second = 2 * (1 - self.first), 2 * (1 - self.second)
        if options.ratio_threshold is not None and with_ratio:
            keep &= squared <= options.ratio_threshold**2 * squared_second
            keep &= squared_second > ROUNDING  # or rounding would decide among equal descriptors
        if options.distance_threshold is not None:
            keep &= squared <= options.distance_threshold**2
        return keep


def match_descriptors(
    descriptors0: Float[Tensor, "N0 D"],
    descriptors1: Float[Tensor, "N1 D"],
    options: MatchingOptions | None = None,
) -> Matches:
    """Match unit descriptors; half precision is widened. Memory does not grow with N0 x N1.

    Raises:
        ValueError: if the descriptors' widths differ.
    """
    options = options or MatchingOptions()
    descriptors0, descriptors1 = torch.as_tensor(descriptors0), torch.as_tensor(descriptors1)
    if descriptors0.shape[1] != descriptors1.shape[1]:
        raise ValueError(
            f"Descriptors of {descriptors0.shape[1]} and {descriptors1.shape[1]} numbers cannot "
            "be matched: they come from different features."
        )
    if len(descriptors0) == 0 or len(descriptors1) == 0:
        return _none(descriptors0)
    forward, backward = nearest_neighbours(descriptors0.float(), descriptors1.float())
    # As hloc: a single descriptor has no second neighbour, and then no ratio is asked of either.
    with_ratio = min(len(descriptors0), len(descriptors1)) > 1
    keep = forward.accepted(options, with_ratio)
    if options.mutual:
        keep &= backward.accepted(options, with_ratio)[forward.indices]
        rows = torch.arange(len(descriptors0), device=keep.device)
        keep &= backward.indices[forward.indices] == rows
    rows = keep.nonzero()[:, 0]
    if len(rows) < options.min_matches:
        return _none(descriptors0)
    pairs = torch.stack([rows, forward.indices[rows]], dim=1)
    return Matches(pairs=pairs, scores=((forward.first[rows] + 1) / 2).clamp(0, 1))


def nearest_neighbours(
    descriptors0: Float[Tensor, "N0 D"], descriptors1: Float[Tensor, "N1 D"]
) -> tuple[Neighbours, Neighbours]:
    """Neighbours of 0 in 1 and of 1 in 0, from one pass over the similarities in blocks of rows."""
    rows = max(1, BLOCK_BYTES // (4 * len(descriptors1)))
    forward, backward = [], None
    for start in range(0, len(descriptors0), rows):
        similarities = descriptors0[start : start + rows] @ descriptors1.T
        forward.append(_two_best(similarities, dim=1, offset=0))
        block = _two_best(similarities, dim=0, offset=start)
        backward = block if backward is None else _better(backward, block)
    return (
        Neighbours(
            indices=torch.cat([n.indices for n in forward]),
            first=torch.cat([n.first for n in forward]),
            second=torch.cat([n.second for n in forward]),
        ),
        backward,
    )


def _two_best(similarities: Float[Tensor, "R C"], dim: int, offset: int) -> Neighbours:
    """The two highest along `dim`. topk is far slower; the highest is hidden for a moment."""
    first, indices = similarities.max(dim=dim)
    where = indices.unsqueeze(dim)
    similarities.scatter_(dim, where, float("-inf"))
    second = similarities.amax(dim=dim)
    similarities.scatter_(dim, where, first.unsqueeze(dim))
    return Neighbours(indices=indices + offset, first=first, second=second)


def _better(old: Neighbours, new: Neighbours) -> Neighbours:
    """The two best of both; the earlier one of equals, as an argmax over all would take."""
    is_new = new.first > old.first
    return Neighbours(
        indices=torch.where(is_new, new.indices, old.indices),
        first=torch.maximum(old.first, new.first),
        second=torch.maximum(
            torch.minimum(old.first, new.first), torch.where(is_new, new.second, old.second)
        ),
    )


def _none(like: Tensor) -> Matches:
    return Matches(
        pairs=torch.empty(0, 2, dtype=torch.int64, device=like.device),
        scores=torch.empty(0, device=like.device),
    )
