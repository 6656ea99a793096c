"""Which features of two images are partners, from where each lies in the other image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d2_hloc.core.ranges import PIXELS, check_ranges

NOWHERE = -1e4  # where a feature lies that the other image does not show: far from all others


@dataclass(frozen=True, kw_only=True)
class TruthOptions:
    """Distances of partners in both images, pixels; what has nothing that near has none.

    Attributes:
        partner: largest distance of partners in both images, pixels.
        alone: a point with nothing so near has no partner, pixels.
    """

    partner: float = 4.0
    alone: float = 8.0

    def __post_init__(self) -> None:
        check_ranges(self, partner=PIXELS, alone=PIXELS)
        if self.partner > self.alone:
            raise ValueError(f"partner {self.partner} must be at most alone {self.alone}.")


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Truth about two images.

    Features between `partner` and `alone`, or of unknown place, are neither.
    """

    partner0: Int[Tensor, " N0"]  # index in image 1, or -1
    alone0: Bool[Tensor, " N0"]  # certainly without a partner
    alone1: Bool[Tensor, " N1"]


def find_truth(
    xy0: Float[Tensor, "N0 2"],
    xy1: Float[Tensor, "N1 2"],
    xy0_in_1: Float[Tensor, "N0 2"],
    xy1_in_0: Float[Tensor, "N1 2"],
    options: TruthOptions,
) -> Truth:
    """Partners are each other's nearest. NaN is a place that is not known, NOWHERE none at all."""
    known0, known1 = (p.isfinite().all(dim=1) for p in (xy0_in_1, xy1_in_0))
    in_1 = distances(xy0_in_1, xy1).masked_fill(~known0[:, None], -NOWHERE)
    in_0 = distances(xy1_in_0, xy0).T.masked_fill(~known1[None, :], -NOWHERE)
    both, either = torch.maximum(in_1, in_0), torch.minimum(in_1, in_0)
    if not len(xy0) or not len(xy1):
        none = torch.full((len(xy0),), -1, device=xy0.device)
        return Truth(partner0=none, alone0=known0, alone1=known1)
    nearest, index = both.min(dim=1)
    is_mutual = both.argmin(dim=0)[index] == torch.arange(len(xy0), device=xy0.device)
    return Truth(
        partner0=torch.where((nearest < options.partner) & is_mutual, index, -1),
        alone0=known0 & (either.amin(dim=1) > options.alone),
        alone1=known1 & (either.amin(dim=0) > options.alone),
    )


def distances(a: Float[Tensor, "N 2"], b: Float[Tensor, "M 2"]) -> Float[Tensor, "N M"]:
    """Euclidean, without the rounding of products."""
    return torch.cdist(a.nan_to_num(NOWHERE), b, compute_mode="donot_use_mm_for_euclid_dist")
