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
from jaxtyping import Bool, Float, Int
from kornia.feature import gftt_response
from torch import Tensor

from d2_hloc.core.images import luma
from d2_hloc.core.pixels import TRAINING_STRIDE, cells_to_pixels, rescale
from d2_hloc.core.structs import Features
from d2_hloc.network.backbone import Backbone, check_edges
from d2_hloc.network.options import PARTS, CellOptions


@torch.no_grad()
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


@torch.no_grad()
def describe_parts(
    backbone: Backbone, image: Float[Tensor, "3 H W"], options: CellOptions
) -> tuple[Features, Float[Tensor, "M 512"]]:
    """Features of the cells of conv3_3, the four in a cell of conv4_3 after each other.

    Cells of conv4_3 that have texture go row by row, and the 2 x 2 in each as well. Keypoints are
    the centres of these.

    Returns:
        The features, whose descriptors are of conv3_3, and descriptors of their M cells.

    Raises:
        ValueError: for an image with an edge below 8 pixels.
    """
    check_edges(*image.shape[1:])
    reduced = reduce_to(image, options.max_cells)
    third, fourth = (maps[0].float() for maps in backbone.deep(reduced[None]))
    rows, columns = fourth.shape[1:]
    parts = third[:, : 2 * rows, : 2 * columns].unflatten(1, (rows, 2)).unflatten(3, (columns, 2))
    along = (torch.arange(2 * count, device=image.device) for count in (rows, columns))
    y, x = torch.meshgrid(*along, indexing="ij")
    places = torch.stack([x, y]).unflatten(1, (rows, 2)).unflatten(3, (columns, 2))
    by_cell = (t.permute(1, 3, 2, 4, 0).flatten(0, 3) for t in (parts, places))
    descriptors, xy = by_cell
    scale = torch.tensor([image.shape[2] / reduced.shape[2], image.shape[1] / reduced.shape[1]])
    keypoints = rescale(cells_to_pixels(xy.float(), TRAINING_STRIDE // 2), scale.to(xy.device))
    covered = covered_by(image, (rows, columns), (reduced.shape[1], reduced.shape[2]))
    response, _ = strongest_corners(covered, (rows, columns))
    keep = is_textured(response, fourth, options.min_texture)
    is_kept = keep.repeat_interleave(PARTS)
    features = Features(
        keypoints=keypoints[is_kept],
        scores=response[keep].repeat_interleave(PARTS),
        descriptors=F.normalize(descriptors[is_kept]),
        scales=keypoints.new_full((int(is_kept.sum()),), float(scale[0])),
    )
    return features, F.normalize(fourth.flatten(1).T[keep])


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
    covered = covered_by(image, (rows, columns), described)
    response, keypoints = strongest_corners(covered, (rows, columns))
    descriptors = maps.flatten(1).T
    keep = is_textured(response, maps, min_texture)
    return Features(
        keypoints=keypoints[keep].float(),
        scores=response[keep],
        descriptors=F.normalize(descriptors[keep]),
        scales=torch.full_like(response[keep], image.shape[2] / described[1]),
    )


def covered_by(
    image: Float[Tensor, "3 H W"], cells: tuple[int, int], described: tuple[int, int]
) -> Float[Tensor, "3 h w"]:
    """The part of an image, described at another size, that rows x columns of whole cells cover."""
    edges = zip(cells, image.shape[1:], described, strict=True)
    height, width = (round(n * TRAINING_STRIDE * edge / size) for n, edge, size in edges)
    return image[:, :height, :width]


def is_textured(
    response: Float[Tensor, " N"], maps: Float[Tensor, "D h w"], min_texture: float
) -> Bool[Tensor, " N"]:
    """Mask of the cells that have a corner, and whose descriptor is not zero."""
    return (response >= max(min_texture, 1e-12)) & (maps.flatten(1).amax(dim=0) > 0)


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
