"""Render a scene: exact depth, and colours that are averaged over each pixel.

A ray through pixel (x, y) meets the plane of a surface at depth t where t * ray = M (u, v, 1), M
being the surface's right, down and corner in the camera's frame. So M^-1 ray = (u, v, 1) / t: the
inverse depth is linear in x and y, and u and v are ratios of what is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from d2_hloc.app.scene.camera import Camera
from d2_hloc.app.scene.light import Lighting, irradiance
from d2_hloc.app.scene.pose import Pose
from d2_hloc.app.scene.surface import Surface
from d2_hloc.app.scene.texture import noise

NEAR = 0.05  # metres; a surface that comes closer is searched for in the whole image
SAMPLES = 2  # by as many in each pixel


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Surfaces and the light that leaves them, each a pyramid of images (3, h, w), linear."""

    surfaces: tuple[Surface, ...]
    radiance: tuple[list[Float[Tensor, "3 _ _"]], ...]
    lighting: Lighting

    @classmethod
    def lit(cls, surfaces: Sequence[Surface], lighting: Lighting) -> Scene:
        """Compute the light once; it takes seconds."""
        radiance = tuple(
            pyramid(reflected(s.texture, irradiance(s, surfaces, lighting))) for s in surfaces
        )
        return cls(surfaces=tuple(surfaces), radiance=radiance, lighting=lighting)


@dataclass(frozen=True, kw_only=True)
class ProjectedSurface:
    """A surface as a camera sees it: `inverse` maps (x, y, 1) of a pixel to (u, v, 1) / depth."""

    inverse: Float[np.ndarray, "3 3"]
    rows: slice  # of the samples it may cover
    columns: slice


def render(
    scene: Scene, camera: Camera, pose: Pose
) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "H W"]]:
    """Render an RGB image and its depth.

    Depth is z in the camera's frame at the pixels' centres, in metres; 0 where there is only sky.
    """
    image = develop(pixel_light(scene, camera, pose), scene.lighting.exposure)
    return image, depth(scene.surfaces, camera, pose)


def depth(surfaces: Sequence[Surface], camera: Camera, pose: Pose) -> Float[np.ndarray, "H W"]:
    """Depth of an image: z in the camera's frame at the pixels' centres, metres; 0 = nothing."""
    inverse, _ = visible(project_surfaces(surfaces, camera, pose, 1), camera, 1, torch.float64)
    return torch.where(inverse > 0, 1 / inverse, 0).float().numpy()


def develop(linear: Float[np.ndarray, "H W 3"], exposure: float) -> UInt8[np.ndarray, "H W 3"]:
    """Expose linear light to uint8, nearly sRGB (its gamma is 2); bright light saturates softly."""
    return np.rint(255 * np.sqrt(1 - np.exp(-exposure * linear))).astype(np.uint8)


def reflected(texture: Float[np.ndarray, "h w 3"], light: Float[np.ndarray, "a b 3"]) -> Tensor:
    """Light that leaves a surface, at the finer of both resolutions."""
    layers = [torch.from_numpy(np.array(x, np.float32)).permute(2, 0, 1) for x in (texture, light)]
    size = [max(layer.shape[k] for layer in layers) for k in (1, 2)]
    albedo, shine = (F.interpolate(x[None], size=size, mode="bilinear")[0] for x in layers)
    return albedo * albedo * shine  # a gamma of 2, as in develop()


def pyramid(image: Float[Tensor, "3 h w"]) -> list[Float[Tensor, "3 _ _"]]:
    """Levels of an image, each half as large as the one before, down to a pixel or two."""
    levels = [image]
    while min(levels[-1].shape[1:]) > 2:
        size = [max(1, n // 2) for n in levels[-1].shape[1:]]
        levels.append(F.interpolate(levels[-1][None], size=size, mode="bilinear")[0])
    return levels


def project_surfaces(
    surfaces: Sequence[Surface], camera: Camera, pose: Pose, samples: int
) -> list[ProjectedSurface | None]:
    """Surfaces as the camera sees them; None where it sees one from behind or not at all."""
    return [_project(surface, camera, pose, samples) for surface in surfaces]


def _project(surface: Surface, camera: Camera, pose: Pose, samples: int) -> ProjectedSurface | None:
    right, down = pose.rotation @ surface.right, pose.rotation @ surface.down
    corner = pose.apply(surface.corner)
    matrix = np.stack([right, down, corner], axis=1)
    if np.linalg.det(matrix) < 1e-9:  # the camera is behind it, or in its plane
        return None
    x, y = camera.principal_point
    rays = np.array([[1, 0, -x], [0, 1, -y], [0, 0, camera.focal]]) / camera.focal
    corners = corner + np.array([0 * right, right, down, right + down])
    if corners[:, 2].max() < NEAR:
        return None
    rows, columns = _extent(corners, camera, samples)
    return ProjectedSurface(inverse=np.linalg.inv(matrix) @ rays, rows=rows, columns=columns)


def _extent(corners: Float[np.ndarray, "4 3"], camera: Camera, samples: int) -> tuple[slice, slice]:
    """Rows and columns of the samples around the corners."""
    width, height = camera.size
    if corners[:, 2].min() < NEAR:
        return slice(0, height * samples), slice(0, width * samples)
    xy = camera.project(corners)
    low = np.clip(np.floor(xy.min(axis=0)), 0, camera.size).astype(int)
    high = np.clip(np.ceil(xy.max(axis=0)) + 1, 0, camera.size).astype(int)
    columns, rows = (slice(int(low[k]) * samples, int(high[k]) * samples) for k in (0, 1))
    return rows, columns


def visible(
    seen: Sequence[ProjectedSurface | None], camera: Camera, samples: int, dtype: torch.dtype
) -> tuple[Float[Tensor, "H W"], Tensor]:
    """Inverse depth, and the index of the nearest surface (-1 = none), at each sample."""
    x, y = (torch.from_numpy(c).to(dtype) for c in camera.grid(samples))
    nearest = torch.zeros(len(y), len(x), dtype=dtype)
    index = torch.full(nearest.shape, -1, dtype=torch.int16)
    for k, surface in enumerate(seen):
        if surface is not None:
            window = surface.rows, surface.columns
            u, v, w = _planes(surface, x[None, surface.columns], y[surface.rows, None])
            closer = (w > nearest[window]) & (u >= 0) & (v >= 0) & (u <= w) & (v <= w)
            nearest[window].copy_(torch.where(closer, w, nearest[window]))
            index[window].masked_fill_(closer, k)
    return nearest, index


def _planes(surface: ProjectedSurface, x: Tensor, y: Tensor) -> list[Tensor]:
    """Coordinates u, v and 1 of a surface, each divided by depth."""
    return [a * x + (b * y + c) for a, b, c in surface.inverse.tolist()]


def pixel_light(
    scene: Scene, camera: Camera, pose: Pose, samples: int = SAMPLES
) -> Float[np.ndarray, "H W 3"]:
    """Linear light that each pixel receives, a mean over the pixel."""
    seen = project_surfaces(scene.surfaces, camera, pose, samples)
    _, index = visible(seen, camera, samples, torch.float32)
    colours = torch.zeros(3, *index.shape)
    x, y = (torch.from_numpy(c).float() for c in camera.grid(samples))
    for k, surface in enumerate(seen):
        if surface is not None:
            rows, columns = (index[surface.rows, surface.columns] == k).nonzero(as_tuple=True)
            rows, columns = rows + surface.rows.start, columns + surface.columns.start
            if len(rows):
                light = _surface_light(surface, scene.radiance[k], x[columns], y[rows], samples)
                colours[:, rows, columns] = light
    rows, columns = (index < 0).nonzero(as_tuple=True)
    rays = camera.rays(np.stack([x[columns].numpy(), y[rows].numpy()], axis=1))
    colours[:, rows, columns] = torch.from_numpy(sky(rays @ pose.rotation, scene.lighting)).T
    return F.avg_pool2d(colours[None], samples)[0].permute(1, 2, 0).numpy()


def _surface_light(
    surface: ProjectedSurface, levels: list[Tensor], x: Tensor, y: Tensor, samples: int
) -> Float[Tensor, "3 N"]:
    """Look samples up in the pyramid, between the two levels whose pixels are as large as they."""
    u, v, w = _planes(surface, x, y)
    u, v = u / w, v / w
    height, width = levels[0].shape[1:]
    area = np.abs(np.linalg.det(surface.inverse)) * width * height / w**3 / samples**2
    level = (0.5 * torch.log2(area)).clamp(0, len(levels) - 1)
    where = torch.stack([2 * u - 1, 2 * v - 1], dim=1)
    light = torch.zeros(3, len(x))
    for k in range(int(level.min()), min(int(level.max()) + 2, len(levels))):
        share = (1 - (level - k).abs()).clamp(min=0)
        rows = share.nonzero()[:, 0]
        if len(rows):
            light[:, rows] += share[rows] * _lookup(levels[k], where[rows])
    return light


def _lookup(image: Float[Tensor, "C h w"], where: Float[Tensor, "N 2"]) -> Float[Tensor, "C N"]:
    found = F.grid_sample(
        image[None], where[None, None], padding_mode="border", align_corners=False
    )
    return found[0, :, 0]


def sky(directions: Float[np.ndarray, "N 3"], lighting: Lighting) -> Float[np.ndarray, "N 3"]:
    """Light from directions in the world: a gradient, with clouds on a layer far above."""
    up = directions[:, 2] / np.linalg.norm(directions, axis=1)
    share = np.clip(up, 0, 1)[:, None] ** 0.7
    clear = (1 - share) * np.array(lighting.horizon) + share * np.array(lighting.zenith)
    layer = directions[:, :2] / (np.clip(directions[:, 2:], 0, None) + 0.15)
    where = torch.from_numpy(np.clip(layer / 6, -1, 1).astype(np.float32))
    cover = np.clip(_lookup(_clouds(), where)[0].numpy() * 2.5 - 1.15, 0, 0.9)[:, None]
    white = 1.1 * np.mean(lighting.sky) + 0.35 * np.array(lighting.sun)
    return (clear * (1 - cover) + white * cover).astype(np.float32)


@cache
def _clouds() -> Float[Tensor, "1 h w"]:
    return torch.from_numpy(noise(512, 512, 90.0, seed=7, octaves=6))[None]
