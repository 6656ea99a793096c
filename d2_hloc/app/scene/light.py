"""Light that falls on the surfaces: sun, sky and lamps, with their shadows. Linear, not sRGB.

All surfaces are matt, so light does not depend on the viewer: it is computed once a scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float

from d2_hloc.app.scene.surface import Surface
from d2_hloc.core.pixels import to_colmap

Colour = tuple[float, float, float]
CLEARANCE = 1e-3  # metres that a shadow ray starts above its surface
SUN_CELLS, SKY_CELLS = (
    24.0,
    8.0,
)  # a metre of surface: shadows of the sun are sharp, those of sky not
SUN_RAYS, SKY_RAYS = 5, 32
SUN_WIDTH = 0.02  # radians; more than the sun has, so that the edges of shadows are soft
SKY_REACH = 2.5  # metres; what is further away hides no sky


@dataclass(frozen=True, kw_only=True)
class Lamp:
    """A small lamp; `colour` is what a surface that faces it receives at one metre."""

    place: tuple[float, float, float]
    colour: Colour


@dataclass(frozen=True, kw_only=True)
class Lighting:
    """A time of day. `to_sun` points at the sun; the sky's colours are at the horizon and above."""

    to_sun: tuple[float, float, float]
    sun: Colour
    sky: Colour
    horizon: Colour
    zenith: Colour
    lamps: tuple[Lamp, ...] = ()
    exposure: float = 1.0


class Blockers:
    """Surfaces that cast shadows; u, v and the height above one are linear in a point."""

    def __init__(self, surfaces: Sequence[Surface]) -> None:
        axes = np.reshape([(s.right, s.down, s.normal) for s in surfaces], (-1, 3, 3))
        inverse = np.linalg.inv(axes.transpose(0, 2, 1))
        corners = np.reshape([s.corner for s in surfaces], (-1, 3, 1))
        self.maps = inverse.transpose(1, 2, 0).astype(np.float32)  # u, v, height; of x, y, z
        self.shifts = (inverse @ corners)[..., 0].T.astype(np.float32)

    @classmethod
    def of(cls, surface: Surface, among: Sequence[Surface]) -> Blockers:
        """Surfaces that rise above the plane of `surface`: the others cast no shadow on it."""
        corners = np.reshape([s.corners for s in among], (-1, 4, 3))
        rises = ((corners - surface.corner) @ surface.normal).max(axis=1) > CLEARANCE
        return cls([s for s, is_above in zip(among, rises, strict=True) if is_above])

    def hide(
        self,
        points: Float[np.ndarray, "N 3"],
        steps: Float[np.ndarray, "#N 3"],
        reach: float = np.inf,
    ) -> Bool[np.ndarray, " N"]:
        """Whether a surface lies on the way from each point, within `reach` times its step."""
        start = [points @ m - b for m, b in zip(self.maps, self.shifts, strict=True)]
        step = [steps @ m for m in self.maps]
        with np.errstate(divide="ignore", invalid="ignore"):
            t = -start[2] / step[2]
            u, v = start[0] + t * step[0], start[1] + t * step[1]
        inside = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
        return (inside & (t > 0) & (t < reach)).any(axis=1)


def irradiance(
    surface: Surface, among: Sequence[Surface], lighting: Lighting
) -> Float[np.ndarray, "h w 3"]:
    """Light that each part of a surface receives; `among` are all surfaces of the scene."""
    blockers = Blockers.of(surface, among)
    points, shape = lattice(surface, SUN_CELLS)
    light = sunlight(points, surface.normal, blockers, lighting)
    for lamp in lighting.lamps:
        light += lamplight(points, surface.normal, blockers, lamp)
    coarse, coarse_shape = lattice(surface, SKY_CELLS)
    open_share = sky_share(coarse, surface.normal, blockers).reshape(coarse_shape)
    light += stretch(open_share, shape).reshape(-1, 1) * np.array(lighting.sky, np.float32)
    return light.reshape(*shape, 3)


def lattice(surface: Surface, density: float) -> tuple[Float[np.ndarray, "N 3"], tuple[int, int]]:
    """Centres of a surface's cells, row by row and slightly above it, and the (h, w) of them.

    `density`: cells a metre.
    """
    columns, rows = (max(2, round(length * density)) for length in surface.lengths)
    u, v = (to_colmap(np.arange(n)) / n for n in (columns, rows))
    points = surface.at(u[None], v[:, None]) + CLEARANCE * surface.normal
    return points.reshape(-1, 3).astype(np.float32), (rows, columns)


def sunlight(
    points: Float[np.ndarray, "N 3"],
    normal: Float[np.ndarray, " 3"],
    blockers: Blockers,
    lighting: Lighting,
) -> Float[np.ndarray, "N 3"]:
    """Light from all over the sun's disc."""
    share = np.zeros((len(points), 1), np.float32)
    facing = normal @ np.array(lighting.to_sun) / np.linalg.norm(lighting.to_sun)
    if facing > 0 and max(lighting.sun) > 0:
        for direction in sun_directions(lighting.to_sun):
            share[:, 0] += ~blockers.hide(points, direction[None])
    return share * np.array(lighting.sun, np.float32) * np.float32(max(0, facing) / SUN_RAYS)


def sun_directions(to_sun: Sequence[float]) -> Float[np.ndarray, "R 3"]:
    """Directions on a circle about the direction to the sun."""
    axis = np.asarray(to_sun, float) / np.linalg.norm(to_sun)
    turns = 2 * np.pi * np.arange(SUN_RAYS) / SUN_RAYS
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=1) @ across(axis)
    return (axis + SUN_WIDTH * circle).astype(np.float32)


def lamplight(
    points: Float[np.ndarray, "N 3"],
    normal: Float[np.ndarray, " 3"],
    blockers: Blockers,
    lamp: Lamp,
) -> Float[np.ndarray, "N 3"]:
    """Light of a lamp, which falls with the square of the distance and with the angle."""
    towards = np.array(lamp.place, np.float32) - points
    distance = np.linalg.norm(towards, axis=1)
    facing = np.clip(towards @ normal.astype(np.float32) / distance, 0, None)
    amount = facing / distance**2 * ~blockers.hide(points, towards, reach=1.0)
    return amount[:, None] * np.array(lamp.colour, np.float32)


def sky_share(
    points: Float[np.ndarray, "N 3"], normal: Float[np.ndarray, " 3"], blockers: Blockers
) -> Float[np.ndarray, " N"]:
    """Share of the half space before a surface that is bright: what hides sky reflects a third."""
    hidden = np.zeros(len(points), np.float32)
    for direction in half_sphere(normal):
        hidden += blockers.hide(points, direction[None], reach=SKY_REACH)
    return 1 - hidden / SKY_RAYS * 2 / 3


def half_sphere(normal: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "R 3"]:
    """Directions, as dense as a matt surface weighs them: a spiral on a disc, lifted."""
    k = to_colmap(np.arange(SKY_RAYS))
    radius, turn = np.sqrt(k / SKY_RAYS), k * np.pi * (3 - np.sqrt(5))
    disc = radius[:, None] * (np.stack([np.cos(turn), np.sin(turn)], axis=1) @ across(normal))
    return (disc + np.sqrt(1 - radius**2)[:, None] * normal).astype(np.float32)


def across(axis: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "2 3"]:
    """Two directions of unit length at right angles to an axis and to each other."""
    first = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(axis, first)])


def stretch(values: Float[np.ndarray, "h w"], shape: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Resize a map to another resolution, linearly."""
    image = torch.from_numpy(values)[None, None]
    return F.interpolate(image, size=shape, mode="bilinear")[0, 0].numpy()
