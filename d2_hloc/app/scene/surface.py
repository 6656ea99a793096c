"""Surfaces of a scene: flat, textured parallelograms, seen from one side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

Texture = Float[np.ndarray, "_ _ 3"]  # sRGB in [0, 1], any height and width
Vector = Float[np.ndarray, " 3"]


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The points corner + u * right + v * down, with u and v in [0, 1]; metres, z is up.

    `corner`, `right` and `down` are as the viewer sees them, who is on the side of `normal`; from
    behind it is invisible, but casts a shadow. The texture's first row lies along `right`.
    """

    corner: Vector
    right: Vector
    down: Vector
    texture: Texture

    @cached_property
    def normal(self) -> Vector:
        """Normal of unit length, towards those who see the surface."""
        normal = np.cross(self.down, self.right)
        return normal / np.linalg.norm(normal)

    @cached_property
    def corners(self) -> Float[np.ndarray, "4 3"]:
        """Corners in the world."""
        return self.at(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]))

    @property
    def lengths(self) -> tuple[float, float]:
        """Lengths of `right` and `down`, metres."""
        return float(np.linalg.norm(self.right)), float(np.linalg.norm(self.down))

    def at(self, u: float | np.ndarray, v: float | np.ndarray) -> Float[np.ndarray, "*N 3"]:
        """Points of the surface in the world."""
        return self.corner + np.multiply.outer(u, self.right) + np.multiply.outer(v, self.down)


def wall(
    start: tuple[float, float], end: tuple[float, float], height: float, texture: Texture
) -> Surface:
    """Wall upright on the ground, from `start` on the viewer's left to `end` on the right."""
    right = np.array([end[0] - start[0], end[1] - start[1], 0.0])
    return Surface(
        corner=np.array([*start, height], float),
        right=right,
        down=np.array([0, 0, -height], float),
        texture=texture,
    )


def block(
    front: Surface, depth: float, sides: Sequence[Texture], top: Texture
) -> tuple[Surface, ...]:
    """A solid from its front, `depth` metres deep: front, right, back, left, top, bottom."""
    c, r, d, back = front.corner, front.right, front.down, -depth * front.normal
    right, behind, left = (sides[k % len(sides)] for k in range(3))
    return (
        front,
        Surface(corner=c + r, right=back, down=d, texture=right),
        Surface(corner=c + r + back, right=-r, down=d, texture=behind),
        Surface(corner=c + back, right=-back, down=d, texture=left),
        Surface(corner=c + back, right=r, down=-back, texture=top),
        Surface(corner=c + d, right=r, down=back, texture=top),
    )


def box(
    place: tuple[float, float],
    size: tuple[float, float, float],
    turn: float,
    sides: Sequence[Texture],
    top: Texture,
    base: float = 0.0,
) -> tuple[Surface, ...]:
    """A box of (w, d, h) metres on its `place` (x, y), turned by `turn` degrees about z."""
    width, depth, height = size
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    right, away = np.array([cos, sin, 0.0]), np.array([-sin, cos, 0.0])
    middle = np.array([*place, base + height], float)
    front = Surface(
        corner=middle - right * width / 2 - away * depth / 2,
        right=right * width,
        down=np.array([0, 0, -height], float),
        texture=sides[0],
    )
    return block(front, depth, [*sides[1:], sides[0]], top)


def column(
    place: tuple[float, float], radius: float, height: float, faces: int, wrap: Texture
) -> tuple[Surface, ...]:
    """An upright prism, open above, and a texture around it whose first column is at the back."""
    angles = np.linspace(0.5 * np.pi, 2.5 * np.pi, faces + 1)
    corners = np.array(place) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    slices = np.array_split(wrap, faces, axis=1)
    return tuple(
        wall(tuple(a), tuple(b), height, part)
        for a, b, part in zip(corners[:-1], corners[1:], slices, strict=True)
    )


def hang(
    on: Surface,
    middle: tuple[float, float],
    size: tuple[float, float, float],
    face: Texture,
    edge: Texture,
) -> tuple[Surface, ...]:
    """A board of (w, h, depth) metres on a surface, its `middle` that far along right and down."""
    right, down = (v / np.linalg.norm(v) for v in (on.right, on.down))
    width, height, depth = size
    corner = on.corner + (middle[0] - width / 2) * right + (middle[1] - height / 2) * down
    front = Surface(
        corner=corner + depth * on.normal, right=right * width, down=down * height, texture=face
    )
    parts = block(front, depth, [edge], edge)
    return parts[:2] + parts[3:]  # nobody sees the back
