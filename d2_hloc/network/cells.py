"""All cells of an image as features: dense descriptors of the training form, at stride 8.

Jointly detected keypoints are a choice among the cells of a map, made in each image by itself. All
of them leave the choice to the other image. A cell stands for 8 x 8 pixels; its keypoint is put on
the strongest corner among them, which other images show at the same place of the scene and to which
a search on shallow maps can hold on.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from kornia.feature import gftt_response
from torch import Tensor

from d2_hloc.core.images import luma
from d2_hloc.core.pixels import TRAINING_STRIDE
from d2_hloc.core.structs import Features
from d2_hloc.network.backbone import Backbone, check_edges
from d2_hloc.network.options import CellOptions


@torch.inference_mode()
def describe_cells(
    backbone: Backbone, image: Float[Tensor, "3 H W"], options: CellOptions
) -> Features:
    """Features of the cells that have texture, row by row; keypoints in pixels of the image.

    Descriptors are the maps of conv4_3 after a ReLU, 512 numbers of unit length.

    Raises:
        ValueError: for an image with an edge below 8 pixels.
    """
    check_edges(*image.shape[1:])
    reduced = reduce_to(image, options.max_cells)
    trunk = backbone.training_trunk(reduced[None].to(backbone.conv1_1.weight.dtype), "conv4_1")
    maps = F.relu_(backbone.training_head(trunk, "conv4_1")[0].float())
    return textured_cells(maps, (reduced.shape[1], reduced.shape[2]), image, options.min_texture)


def textured_cells(
    maps: Float[Tensor, "D h w"],
    described: tuple[int, int],
    image: Float[Tensor, "3 H W"],
    min_texture: float,
) -> Features:
    """Features of the cells that have texture, of maps of an image at the size `described`.

    The image may be larger than that (height, width). What is left of it beyond the last whole cell
    has none.
    """
    rows, columns = maps.shape[1:]
    height, width = image.shape[1:]
    covered_height = round(rows * TRAINING_STRIDE * height / described[0])
    covered_width = round(columns * TRAINING_STRIDE * width / described[1])
    covered = image[:, :covered_height, :covered_width]
    response, keypoints = strongest_corners(covered, (rows, columns))
    descriptors = maps.flatten(1).T
    keep = (response >= max(min_texture, 1e-12)) & (descriptors.amax(dim=1) > 0)
    return Features(
        keypoints=keypoints[keep].float(),
        scores=response[keep],
        descriptors=F.normalize(descriptors[keep]),
        scales=torch.full_like(response[keep], width / described[1]),
    )


def reduce_to(image: Float[Tensor, "3 H W"], max_cells: int) -> Float[Tensor, "3 h w"]:
    """The image, at a size that has at most so many cells."""
    height, width = image.shape[1:]
    scale = math.sqrt(max_cells * TRAINING_STRIDE**2 / (height * width))
    if scale >= 1:
        return image
    size = [max(TRAINING_STRIDE, math.floor(edge * scale)) for edge in (height, width)]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def strongest_corners(
    image: Float[Tensor, "3 H W"], cells: tuple[int, int]
) -> tuple[Float[Tensor, " N"], Int[Tensor, "N 2"]]:
    """Response and pixel (x, y) of the strongest corner in each of rows x columns cells."""
    response = gftt_response(luma(image)[None, None].float())
    strongest, index = F.adaptive_max_pool2d(response, cells, return_indices=True)
    index, width = index.flatten(), image.shape[2]
    return strongest.flatten(), torch.stack([index % width, index // width], dim=1)
