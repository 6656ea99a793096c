"""A view: an undistorted image, its intrinsics and its pose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.pixels import rescale


@dataclass(frozen=True, kw_only=True)
class StereoView:
    """An image without distortion; pixel (0, 0) is the centre of the first one.

    The image's device is the one that is computed on; matrices are float64 on the CPU.
    """

    image: Float[Tensor, "H W"]  # grey in [0, 1]
    K: Float[Tensor, "3 3"]
    cam_from_world: Float[Tensor, "3 4"]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        height, width = self.image.shape
        return height, width

    def halved(self) -> StereoView:
        """The view at half the size, filtered."""
        size = tuple(max(1, edge // 2) for edge in self.size)
        image = F.interpolate(self.image[None, None], size=size, mode="bilinear", antialias=True)
        scale = torch.tensor([new / old for new, old in zip(size, self.size, strict=True)][::-1])
        K = self.K.clone()
        K[:2, :2] *= scale.to(K)[:, None]
        K[:2, 2] = rescale(K[:2, 2], scale.to(K))
        return replace(self, image=image[0, 0], K=K)


def projection(
    target: StereoView, source: StereoView
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, " 3"]]:
    """A and b with target pixel ~ A (x, y, 1) + inverse_depth * b for a pixel (x, y) of source.

    The third component is the ratio of the target's to the source's depth.
    """
    R0, t0 = source.cam_from_world[:, :3], source.cam_from_world[:, 3]
    R1, t1 = target.cam_from_world[:, :3], target.cam_from_world[:, 3]
    R = R1 @ R0.T
    return target.K @ R @ torch.linalg.inv(source.K), target.K @ (t1 - R @ t0)


def pixel_grid(image: Float[Tensor, "H W"]) -> Float[Tensor, "3 H W"]:
    """Homogeneous (x, y, 1) of every pixel."""
    height, width = image.shape
    x, y = torch.arange(width).to(image), torch.arange(height).to(image)
    return torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(image)]
    )
