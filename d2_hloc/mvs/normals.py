"""Normals of a depth map, from planes fitted to each pixel's neighbourhood."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from d2_hloc.mvs.views import pixel_grid

RADIUS = 3  # pixels
SAME_SURFACE = 0.02  # of the inverse depth: neighbours farther off lie on another surface


def normals(
    depth: Float[Tensor, "H W"], intrinsics: Float[Tensor, "3 3"]
) -> Float[Tensor, "3 H W"]:
    """Unit normals in the camera's frame, towards the camera; 0 where there is no depth.

    On a plane the inverse depth is linear in the pixel: w = (a, b, c) (x, y, 1). Its normal is
    K^T (a, b, c), K being the intrinsics. Pixels without neighbours face the camera.
    """
    inverse = torch.where(depth > 0, 1 / depth, 0)
    a, b = _slopes(inverse)
    x, y, _ = pixel_grid(depth)
    plane = torch.stack([a, b, inverse - a * x - b * y])
    found = F.normalize(-torch.einsum("ji,jhw->ihw", intrinsics.to(depth), plane), dim=0)
    return torch.where(depth > 0, found, 0)


def _slopes(
    inverse: Float[Tensor, "H W"],
) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    """Least-squares slopes in x and y, per pixel, over the neighbours on the same surface."""
    (height, width), radius = inverse.shape, RADIUS
    padded = F.pad(inverse, [radius] * 4)
    limit = SAME_SURFACE * inverse
    n, sx, sy, sxx, sxy, syy, sw, sxw, syw = (torch.zeros_like(inverse) for _ in range(9))
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            top, left = dy + radius, dx + radius
            near = padded[top : top + height, left : left + width]
            difference = near - inverse
            weight = ((near > 0) & (difference.abs() <= limit)).to(inverse)
            difference = difference * weight
            n, sx, sy, sw = n + weight, sx + dx * weight, sy + dy * weight, sw + difference
            sxx, sxy, syy = sxx + dx**2 * weight, sxy + dx * dy * weight, syy + dy**2 * weight
            sxw, syw = sxw + dx * difference, syw + dy * difference
    n = n.clamp(min=1)
    xx, xy, yy = sxx - sx * sx / n, sxy - sx * sy / n, syy - sy * sy / n
    xw, yw = sxw - sx * sw / n, syw - sy * sw / n
    determinant = xx * yy - xy * xy
    is_plane = determinant > 1e-3
    scale = torch.where(is_plane, 1 / determinant.clamp(min=1e-3), 0)
    return scale * (yy * xw - xy * yw), scale * (xx * yw - xy * xw)
