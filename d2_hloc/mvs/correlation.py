"""Normalised cross-correlation in square windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

NOISE = 1e-5  # variance of grey values: what has less than this has no texture


def _box_sum(maps: Tensor, window: int) -> Tensor:
    """Sums over each pixel's window, by shifted additions.

    Differences of running sums would lose the digits of small variances.
    """
    height, width = maps.shape[-2:]
    padded = F.pad(maps, [window // 2] * 4)
    rows = padded[..., :width].clone()
    for k in range(1, window):
        rows += padded[..., k : k + width]
    sums = rows[..., :height, :].clone()
    for k in range(1, window):
        sums += rows[..., k : k + height, :]
    return sums


class Correlation:
    """Compares one reference image with many others, window by window."""

    def __init__(self, reference: Float[Tensor, "H W"], window: int) -> None:
        """`window` is an odd number of pixels."""
        self.window = window
        self.offset = reference.mean()  # keeps the digits of variances
        self.reference = reference - self.offset
        self.inside = _box_sum(torch.ones_like(reference), window)
        self.mean, square = self._means(torch.stack([self.reference, self.reference**2]))
        self.deviation = _deviation(self.mean, square)

    def _means(self, maps: Tensor) -> Tensor:
        return _box_sum(maps, self.window) / self.inside

    def __call__(self, image: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
        """NCC in [-1, 1] of each pixel's window; near 0 where either has no texture."""
        image = image - self.offset
        mean, square, product = self._means(torch.stack([image, image**2, image * self.reference]))
        return (product - mean * self.mean) / (_deviation(mean, square) * self.deviation)


def _deviation(mean: Tensor, square: Tensor) -> Tensor:
    return ((square - mean**2).clamp(min=0) + NOISE).sqrt()
