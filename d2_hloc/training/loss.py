"""The joint loss for detection and description (Eq. 9-13), for one pair of training maps.

Distances are squared throughout: Eq. 12 squares them anyway, and the slope of a root at zero is
infinite. Descriptors have unit length, so a squared distance is 2 - 2 times their product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from d2_hloc.core.pixels import TRAINING_STRIDE, pixels_to_cells
from d2_hloc.core.ranges import RATIOS, check_ranges
from d2_hloc.network.detection import SoftForm, soft_scores

FAR = 10.0  # more than any squared distance of unit vectors


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Options of the joint loss; the defaults are the paper's.

    `soft_detection`: Eq. 4 as the paper has it, or as the released code. `descriptors`: 'relu'
    takes them from the same non-negative maps as the detections, as at test; 'raw', as the
    released code, from before the ReLU. `ratio`: the ratio test keeps a match below it; None
    leaves out the term that pushes the hardest negative beyond it, which `ratio_weight` weighs.

    Attributes:
        margin: of the triplet loss, of squared distances.
        safe_radius: cells around a match that are no negatives.
        soft_detection: paper: Eq. 4 of exp(D); released: of exp(D / max), as the authors'
            code.
        descriptors: relu: from the maps that detection sees; raw: from before the ReLU.
        ratio: ratio of distances to push the hardest negative beyond; null is none.
        ratio_weight: weight of that term.
    """

    margin: float = 1.0
    safe_radius: int = 4  # cells, Linf
    soft_detection: SoftForm = "paper"
    descriptors: Literal["relu", "raw"] = "relu"
    ratio: float | None = None
    ratio_weight: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(
            self, margin=(0, 100), safe_radius=(0, 1000), ratio=RATIOS, ratio_weight=(0, 1e6)
        )


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Squared distances of K correspondences and the soft scores' weights."""

    positive: Float[Tensor, " K"]  # p(c)^2, Eq. 9
    negative: Float[Tensor, " K"]  # n(c)^2, Eq. 10
    weights: Float[Tensor, " K"]  # s_c^(1) s_c^(2), not normalised


def pair_loss(
    options: LossOptions,
    maps0: Float[Tensor, "D h0 w0"],
    maps1: Float[Tensor, "D h1 w1"],
    xy0: Float[Tensor, "K 2"],
    xy1: Float[Tensor, "K 2"],
) -> tuple[Float[Tensor, ""], Distances]:
    """Joint loss (Eq. 13) of a pair of crops, given the training form's maps before their ReLU.

    `xy0` and `xy1` are the two ends of each correspondence, pixels of either crop, with (0, 0) at
    the centre of the first pixel. Without correspondences, or without any response at them, the
    loss is zero and so are its gradients.
    """
    cells0, cells1 = nearest_cells(xy0, maps0), nearest_cells(xy1, maps1)
    found = correspondence_distances(options, maps0, maps1, cells0, cells1)
    terms = margin_terms(found.positive, found.negative, options.margin)
    if options.ratio is not None:
        ratio = ratio_terms(found.positive, found.negative, options.ratio)
        terms = terms + options.ratio_weight * ratio
    return weighted_mean(terms, found.weights), found


def correspondence_distances(
    options: LossOptions,
    maps0: Float[Tensor, "D h0 w0"],
    maps1: Float[Tensor, "D h1 w1"],
    cells0: Int[Tensor, "K 2"],
    cells1: Int[Tensor, "K 2"],
) -> Distances:
    """Positive and hardest negative distances and the weights; cells are (row, column)."""
    responses0, responses1 = F.relu(maps0), F.relu(maps1)
    all0, all1 = dense_descriptors(options, maps0), dense_descriptors(options, maps1)
    own0, own1 = at_cells(all0, cells0), at_cells(all1, cells1)
    scores0 = soft_scores(responses0[None], options.soft_detection)[0]
    scores1 = soft_scores(responses1[None], options.soft_detection)[0]
    return Distances(
        positive=2 - 2 * (own0 * own1).sum(dim=1),
        negative=torch.minimum(
            hardest_negatives(own0, all1, cells1, options.safe_radius),
            hardest_negatives(own1, all0, cells0, options.safe_radius),
        ),
        weights=scores0[tuple(cells0.T)] * scores1[tuple(cells1.T)],
    )


def dense_descriptors(options: LossOptions, maps: Float[Tensor, "D h w"]) -> Float[Tensor, "D h w"]:
    """The descriptor of every cell, of unit length; zero on a cell without any response."""
    return F.normalize(maps if options.descriptors == "raw" else F.relu(maps), dim=0)


def nearest_cells(xy: Float[Tensor, "K 2"], maps: Float[Tensor, "D h w"]) -> Int[Tensor, "K 2"]:
    """The training form's cells (row, column) whose receptive fields' centres are nearest."""
    cells = pixels_to_cells(xy, TRAINING_STRIDE).round().long().flip(1)
    limits = torch.tensor(maps.shape[1:], device=cells.device) - 1
    return cells.clamp(min=0).minimum(limits)


def at_cells(maps: Float[Tensor, "D h w"], cells: Int[Tensor, "K 2"]) -> Float[Tensor, "K D"]:
    """The values of the maps at cells (row, column)."""
    return maps[:, cells[:, 0], cells[:, 1]].T


def hardest_negatives(
    descriptors: Float[Tensor, "K D"],
    others: Float[Tensor, "D h w"],
    cells: Int[Tensor, "K 2"],
    radius: int,
) -> Float[Tensor, " K"]:
    """Squared distance to the nearest of the other image's descriptors that lie further than
    `radius` cells (Linf) from the right cell (Eq. 11)."""
    _, height, width = others.shape
    squared = 2 - 2 * descriptors @ others.flatten(1)
    rows = torch.arange(height, device=cells.device)
    columns = torch.arange(width, device=cells.device)
    near_rows = (cells[:, 0, None] - rows).abs() <= radius
    near_columns = (cells[:, 1, None] - columns).abs() <= radius
    is_near = (near_rows[:, :, None] & near_columns[:, None, :]).flatten(1)
    return squared.masked_fill(is_near, FAR).amin(dim=1)


def margin_terms(
    positive: Float[Tensor, " K"], negative: Float[Tensor, " K"], margin: float = 1.0
) -> Float[Tensor, " K"]:
    """Triplet margin ranking loss m(c) (Eq. 12), of squared distances."""
    return F.relu(margin + positive - negative)


def ratio_terms(
    positive: Float[Tensor, " K"], negative: Float[Tensor, " K"], ratio: float
) -> Float[Tensor, " K"]:
    """Distance of a correspondence from passing the ratio test p < ratio * n, of squares."""
    return F.relu(positive - ratio**2 * negative)


def weighted_mean(terms: Float[Tensor, " K"], weights: Float[Tensor, " K"]) -> Float[Tensor, ""]:
    """Mean of the terms, weighed by their soft scores (Eq. 13); zero where all of those are."""
    # Scores are shares of an image, about 1e-3 each: their products stay above this.
    return (weights * terms).sum() / weights.sum().clamp(min=1e-20)
