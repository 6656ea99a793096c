"""Held-back pairs matched as at test: the test form's detections, mutual nearest neighbours.

The loss and the accuracy of cells can improve while the detections at test become fewer or worse;
this says what the weights are good for.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.pixels import TRAINING_STRIDE, cells_to_level, pixels_to_cells
from d2_hloc.matching.nearest import match_descriptors
from d2_hloc.network.backbone import Backbone
from d2_hloc.network.description import GeneralizedMean
from d2_hloc.network.pyramid import levels
from d2_hloc.training.pair import TrainingPair

MEASURES = ("matching_accuracy", "right_matches", "features")
THRESHOLD = 3.0  # pixels between a match and where it belongs
EDGE_THRESHOLD = 5.0  # as D2NetOptions


@torch.no_grad()
def match_held_back(backbone: Backbone, pair: TrainingPair) -> Float[Tensor, " 3"]:
    """MEASURES of one pair: the share of matches within THRESHOLD, their number, and the mean
    number of features of a crop. Without matches the share is 0.

    Matches whose keypoint in crop 0 lies where nothing is known to correspond do not count.
    """
    found = [features(backbone, image) for image in (pair.image0, pair.image1)]
    (xy0, descriptors0), (xy1, descriptors1) = found
    pairs = match_descriptors(descriptors0, descriptors1).pairs.cpu()
    errors = (follow(pair, xy0[pairs[:, 0]]) - xy1[pairs[:, 1]]).norm(dim=1)
    errors = errors[errors.isfinite()]
    right = (errors <= THRESHOLD).sum().item()
    share = right / len(errors) if len(errors) else 0.0
    return torch.tensor([share, right, (len(xy0) + len(xy1)) / 2])


def features(
    backbone: Backbone, image: Float[Tensor, "3 H W"]
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N D"]]:
    """Keypoints, pixels of the crop, and unit descriptors, of a single scale."""
    device = backbone.conv4_3.weight.device
    pools = [GeneralizedMean()]
    (level,) = levels(backbone, image[None].to(device), (1.0,), EDGE_THRESHOLD, pools)
    part = level.parts[0]
    return cells_to_level(part.positions.flip(1), "centre").cpu(), part.descriptors


def follow(pair: TrainingPair, xy: Float[Tensor, "N 2"]) -> Float[Tensor, "N 2"]:
    """Pixels of crop 0 moved to crop 1, between the correspondences of the four cells around
    each; NaN where one of those has none."""
    height, width = (edge // TRAINING_STRIDE for edge in pair.image0.shape[1:])
    flow = torch.full((height + 1, width + 1, 2), torch.nan)  # one more, for the rim's neighbours
    columns, rows = pixels_to_cells(pair.xy0, TRAINING_STRIDE).round().long().T
    flow[rows, columns] = pair.xy1 - pair.xy0
    cells = pixels_to_cells(xy, TRAINING_STRIDE)
    inside = ((cells >= 0) & (cells < torch.tensor([width, height]))).all(dim=1)
    low = torch.where(inside[:, None], cells, 0).floor().long()
    (x, y), (u, v) = low.T, (cells - low).T[..., None]
    top = torch.lerp(flow[y, x], flow[y, x + 1], u)
    bottom = torch.lerp(flow[y + 1, x], flow[y + 1, x + 1], u)
    return torch.where(inside[:, None], xy + torch.lerp(top, bottom, v), torch.nan)
