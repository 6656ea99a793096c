"""Matches in the form that hloc's matchers give them in."""

from __future__ import annotations

import torch
from torch import Tensor

from d2_hloc.core.structs import Matches


def check_indices(matches: Matches, max_index: int | None) -> None:
    """Raise ValueError for a match with a keypoint whose index cannot be stored."""
    if max_index is None or len(matches) == 0:
        return
    largest = int(matches.pairs[:, 1].max())
    if largest > max_index:
        raise ValueError(
            f"A match points to keypoint {largest}, but hloc would store indices above "
            f"{max_index} wrapped around: extract with a lower max_keypoints."
        )


def dense(matches: Matches, count: int) -> dict[str, Tensor]:
    """The index in image 1 for each of `count` keypoints of image 0, or -1, and its score."""
    index0, index1 = matches.pairs.T
    matches0 = torch.full((count,), -1, dtype=torch.int64, device=matches.pairs.device)
    scores0 = torch.zeros(count, device=matches.pairs.device)
    matches0[index0], scores0[index0] = index1, matches.scores
    return {"matches0": matches0[None], "matching_scores0": scores0[None]}
