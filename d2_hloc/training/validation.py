"""Measures of the maps on pairs held back: the loss, and the share of right neighbours."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d2_hloc.training.loss import (
    LossOptions,
    at_cells,
    dense_descriptors,
    nearest_cells,
    pair_loss,
    weighted_mean,
)

MEASURES = ("loss", "accuracy", "detected_accuracy")
TOLERANCE = 1  # cells, Linf, between a nearest neighbour and the right cell


@torch.no_grad()
def measure_maps(
    options: LossOptions,
    maps0: Float[Tensor, "D h0 w0"],
    maps1: Float[Tensor, "D h1 w1"],
    xy0: Float[Tensor, "K 2"],
    xy1: Float[Tensor, "K 2"],
) -> Float[Tensor, " 3"]:
    """MEASURES of one pair; arguments as pair_loss takes them.

    `accuracy` is the share of correspondences whose nearest neighbour, among all cells of the
    other crop, is right, from either end. `detected_accuracy` weighs each by its soft scores.
    """
    loss, found = pair_loss(options, maps0, maps1, xy0, xy1)
    all0, all1 = dense_descriptors(options, maps0), dense_descriptors(options, maps1)
    cells0, cells1 = nearest_cells(xy0, maps0), nearest_cells(xy1, maps1)
    right = torch.stack(
        [
            are_right(at_cells(all0, cells0), all1, cells1),
            are_right(at_cells(all1, cells1), all0, cells0),
        ]
    )
    shares = right.float().mean(dim=0)
    return torch.stack([loss, shares.mean(), weighted_mean(shares, found.weights)])


def are_right(
    descriptors: Float[Tensor, "K D"], others: Float[Tensor, "D h w"], cells: Int[Tensor, "K 2"]
) -> Bool[Tensor, " K"]:
    """Mask of the descriptors whose nearest of the other image is within TOLERANCE of its cell."""
    nearest = (descriptors @ others.flatten(1)).argmax(dim=1)
    width = others.shape[2]
    found = torch.stack([nearest // width, nearest % width], dim=1)
    return ((found - cells).abs() <= TOLERANCE).all(dim=1)
