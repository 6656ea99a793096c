"""Descriptors of an image, prepared for the search of nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

UNIT_ROUNDOFF = 2.0**-24  # of float32


@dataclass(frozen=True, kw_only=True)
class PreparedDescriptors:
    """Descriptors of an image, prepared once for all the pairs that it is in."""

    exact: Float[Tensor, "N D"]  # float32
    coarse: Tensor  # (N, D), the same in the precision that is multiplied
    norm: float  # the largest of the N Euclidean lengths
    error: float  # the largest of the N distances between exact and coarse

    def __len__(self) -> int:
        return len(self.exact)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        shared = self.coarse is self.exact
        return self.exact.nbytes + (0 if shared else self.coarse.nbytes)

    def error_bound(self, other: PreparedDescriptors) -> float:
        """Largest error of a coarse similarity, by rounding descriptors, summing up and storing.

        |a b - a' b'| <= |a - a'| |b| + |a'| |b - b'|.
        """
        norm0, norm1 = self.norm + self.error, other.norm + other.error
        stored = torch.finfo(self.coarse.dtype).eps / 2
        summed = 2 * self.exact.shape[1] * UNIT_ROUNDOFF
        return self.error * norm1 + norm0 * other.error + (stored + summed) * norm0 * norm1


def prepare_descriptors(descriptors: Float[Tensor, "N D"]) -> PreparedDescriptors:
    """Prepare descriptors of any precision; on a GPU, float32 is fast enough."""
    exact = descriptors.float().contiguous()
    if exact.device.type != "cpu" or len(exact) == 0 or coarse_dtype() == torch.float32:
        return PreparedDescriptors(exact=exact, coarse=exact, norm=_longest(exact), error=0.0)
    coarse = exact.to(coarse_dtype())
    error = _longest(exact - coarse.float())
    return PreparedDescriptors(exact=exact, coarse=coarse, norm=_longest(exact), error=error)


def _longest(vectors: Float[Tensor, "N D"]) -> float:
    return float(torch.linalg.vector_norm(vectors, dim=1).max()) if len(vectors) else 0.0


def coarse_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it much faster than float32, else float32.

    torch is asked what the processor can do: timing a product takes longer than it saves. An older
    one does not tell, which is taken for no. Matches are the same by either.
    """
    can = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if can.get("amx_bf16") or can.get("avx512_bf16") else torch.float32
