"""The two values that travel between the parts: Features of an image, Matches of a pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Features:
    """Local features of one image. There may be none: N is then 0, D stays."""

    keypoints: Float[Tensor, "N 2"]  # x, y in pixels; (0, 0) is the centre of the first pixel
    scores: Float[Tensor, " N"]  # higher is better
    descriptors: Float[Tensor, "N D"]  # unit length
    scales: Float[Tensor, " N"]  # pixels of this image in one pixel of the pyramid level
    pyramids: Int[Tensor, " N"] | None = None  # the image pyramid each was found in; None: one
    global_descriptor: Float[Tensor, " G"] | None = None  # unit length; for retrieval

    def __len__(self) -> int:
        return len(self.keypoints)

    def to(self, device: torch.device | str) -> Features:
        """The same on a device."""
        pooled, of = self.global_descriptor, self.pyramids
        return Features(
            keypoints=self.keypoints.to(device),
            scores=self.scores.to(device),
            descriptors=self.descriptors.to(device),
            scales=self.scales.to(device),
            pyramids=None if of is None else of.to(device),
            global_descriptor=None if pooled is None else pooled.to(device),
        )

    def best(self, count: int | None) -> Features:
        """The `count` features of highest score, best first; all of them for None."""
        return self.chosen(torch.argsort(self.scores, descending=True, stable=True)[:count])

    def chosen(self, order: Int[Tensor, " K"]) -> Features:
        """The features of these indices, in their order."""
        return Features(
            keypoints=self.keypoints[order],
            scores=self.scores[order],
            descriptors=self.descriptors[order],
            scales=self.scales[order],
            pyramids=None if self.pyramids is None else self.pyramids[order],
            global_descriptor=self.global_descriptor,
        )


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Matches between image 0 and image 1. There may be none: K is then 0."""

    pairs: Int[Tensor, "K 2"]  # keypoint index in image 0, in image 1
    scores: Float[Tensor, " K"]  # in [0, 1], higher is better

    def __len__(self) -> int:
        return len(self.pairs)

    def at_least(self, count: int) -> Matches:
        """These, or none where they are fewer."""
        keep = len(self) if len(self) >= count else 0
        return Matches(pairs=self.pairs[:keep], scores=self.scores[:keep])
