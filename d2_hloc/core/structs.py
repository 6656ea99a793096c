"""The two values that travel between the parts: Features of an image, Matches of a pair."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        return replace(self, **{name: value.to(device) for name, value in self._given().items()})

    def best(self, count: int | None) -> Features:
        """The `count` features of highest score, best first; all of them for None."""
        return self.chosen(torch.argsort(self.scores, descending=True, stable=True)[:count])

    def chosen(self, order: Int[Tensor, " K"]) -> Features:
        """The features of these indices, in their order."""
        rows = {name: v[order] for name, v in self._given().items() if name != "global_descriptor"}
        return replace(self, **rows)

    def _given(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Matches between image 0 and image 1. There may be none: K is then 0."""

    pairs: Int[Tensor, "K 2"]  # keypoint index in image 0, in image 1
    scores: Float[Tensor, " K"]  # in [0, 1], higher is better

    @classmethod
    def none(cls, device: torch.device | str = "cpu") -> Matches:
        """No matches."""
        pairs = torch.empty(0, 2, dtype=torch.int64, device=device)
        return cls(pairs=pairs, scores=torch.empty(0, device=device))

    def __len__(self) -> int:
        return len(self.pairs)

    def at_least(self, count: int) -> Matches:
        """These, or none where they are fewer."""
        keep = len(self) if len(self) >= count else 0
        return Matches(pairs=self.pairs[:keep], scores=self.scores[:keep])
