"""The pinhole camera: intrinsics in pixels whose centres are at integers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from d2_hloc.core.pixels import from_colmap, image_centre, rescale, to_colmap


@dataclass(frozen=True, kw_only=True)
class Camera:
    """An ideal pinhole camera without distortion.

    `principal_point` is (x, y) with (0, 0) at the centre of the first pixel, as keypoints are.
    """

    size: tuple[int, int]  # w, h in pixels
    focal: float  # in pixels
    principal_point: tuple[float, float]

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.focal <= 0:
            raise ValueError(
                f"A camera needs a positive size and focal length, not {self.size}, {self.focal}."
            )

    @classmethod
    def from_view_angle(cls, size: tuple[int, int], degrees: float) -> Camera:
        """Camera that looks through its image's middle and sees `degrees` from edge to edge."""
        if not 0 < degrees < 180:
            raise ValueError(f"A view angle lies between 0 and 180 degrees, not at {degrees}.")
        half_width, _ = image_centre(*size)
        x, y = (from_colmap(c) for c in image_centre(*size))
        focal = half_width / math.tan(math.radians(degrees / 2))
        return cls(size=size, focal=focal, principal_point=(x, y))

    def project(self, points: Float[np.ndarray, "*N 3"]) -> Float[np.ndarray, "*N 2"]:
        """Pixels (x, y) of points in the camera's frame, z > 0."""
        return self.focal * points[..., :2] / points[..., 2:] + np.array(self.principal_point)

    def rays(self, xy: Float[np.ndarray, "*N 2"]) -> Float[np.ndarray, "*N 3"]:
        """Directions of pixels in the camera's frame with z = 1: times depth they are points."""
        plane = (xy - np.array(self.principal_point)) / self.focal
        return np.concatenate([plane, np.ones_like(plane[..., :1])], axis=-1)

    def grid(self, samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Columns x and rows y of the pixels, or of `samples` x `samples` points in each pixel."""
        x, y = (rescale(np.arange(n * samples), 1 / samples) for n in self.size)
        return x, y

    def colmap(self) -> str:
        """Text `MODEL w h params`, as COLMAP and hloc's query lists write a camera."""
        x, y = to_colmap(np.array(self.principal_point)).tolist()
        return f"PINHOLE {self.size[0]} {self.size[1]} {self.focal!r} {self.focal!r} {x!r} {y!r}"
