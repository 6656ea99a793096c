"""Keep the depths that other views' depths confirm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from d2_hloc.mvs.options import ConsistencyOptions
from d2_hloc.mvs.views import StereoView, pixel_grid, projection


def consistent_depth(
    depth: Float[Tensor, "H W"],
    view: StereoView,
    others: Iterable[tuple[Float[Tensor, "_ _"], StereoView]],
    options: ConsistencyOptions,
) -> Float[Tensor, "H W"]:
    """The depth where enough of the others (depth and view) confirm it, 0 elsewhere."""
    votes = torch.zeros_like(depth, dtype=torch.int32)
    for other_depth, other in others:
        votes += confirmed(depth, view, other_depth, other, options)
    return torch.where(votes >= options.min_num_views, depth, 0)


def confirmed(
    depth: Float[Tensor, "H W"],
    view: StereoView,
    other_depth: Float[Tensor, "_ _"],
    other: StereoView,
    options: ConsistencyOptions,
) -> Int[Tensor, "H W"]:
    """1 where the other view's depth agrees, 0 elsewhere."""
    grid = pixel_grid(depth)
    there = _transform(grid, torch.where(depth > 0, 1 / depth, 0), view, other)
    expected, xy = depth * there[2], there[:2] / there[2]
    found = _nearest(other_depth, xy)
    back = _transform(torch.cat([xy, grid[2:]]), 1 / found, other, view)
    error = (back[:2] / back[2] - grid[:2]).norm(dim=0)
    agrees = (found - expected).abs() <= options.max_depth_error * expected
    is_seen = (depth > 0) & (there[2] > 0) & (found > 0)
    return (is_seen & agrees & (error <= options.max_reproj_error)).int()


def _transform(
    pixels: Float[Tensor, "3 H W"],
    inverse: Float[Tensor, "H W"],
    source: StereoView,
    target: StereoView,
) -> Float[Tensor, "3 H W"]:
    """Pixels of `source` at these inverse depths, as homogeneous pixels of `target`."""
    A, b = (matrix.to(pixels) for matrix in projection(target, source))
    return torch.einsum("ij,jhw->ihw", A, pixels) + inverse * b[:, None, None]


def _nearest(values: Float[Tensor, "_ _"], xy: Float[Tensor, "2 H W"]) -> Float[Tensor, "H W"]:
    """Values at the nearest pixels; 0 outside."""
    height, width = values.shape
    edges = xy.new_tensor([max(1, width - 1), max(1, height - 1)])
    where = (2 * xy / edges[:, None, None] - 1).nan_to_num(2, 2, 2)
    found = F.grid_sample(
        values[None, None], where.permute(1, 2, 0)[None], mode="nearest", align_corners=True
    )
    return found[0, 0]
