"""The demo's scene: a small square with an exhibition of photographs, by day and by night.

Metres; z is up, the ground is z = 0, and visitors come from negative y. Three walls form the
square, open to them; columns, crates and boards stand in it, so that views differ by parallax.
"""

from __future__ import annotations

import numpy as np

from d2_hloc.app.scene.light import Lamp, Lighting
from d2_hloc.app.scene.surface import Surface, Texture, block, box, column, hang, wall
from d2_hloc.app.scene.texture import (
    Colour,
    framed,
    lawn,
    masonry,
    noise,
    paste,
    photograph,
    plain,
    plaster,
    resized,
    tinted,
    window,
)

DAY = Lighting(
    to_sun=(-0.62, -0.75, 0.72),
    sun=(2.7, 2.3, 1.75),
    sky=(0.55, 0.68, 0.9),
    horizon=(0.95, 1.1, 1.25),
    zenith=(0.18, 0.42, 0.95),
    exposure=0.85,
)
NIGHT = Lighting(
    to_sun=(0.5, -0.6, 0.8),
    sun=(0.0, 0.0, 0.0),
    sky=(0.045, 0.065, 0.12),
    horizon=(0.03, 0.035, 0.06),
    zenith=(0.004, 0.006, 0.018),
    lamps=(  # in front of the lanterns
        Lamp(place=(-3.16, 1.18, 2.25), colour=(2.6, 1.65, 0.75)),
        Lamp(place=(3.23, 1.04, 2.4), colour=(2.6, 1.6, 0.7)),
    ),
    exposure=0.8,
)
OAK, IRON, WHITE = (0.42, 0.29, 0.17), (0.12, 0.12, 0.13), (0.93, 0.92, 0.88)
DENSITY = 160.0  # pixels a metre of what is made here; views come as close as 170


def market_square() -> tuple[Surface, ...]:
    """All surfaces of the square, without light."""
    back, left, right = walls()
    return (
        ground(),
        *(part for on in (back, left, right) for part in (on, *coping(on))),
        *tower(),
        *pictures(back, left, right),
        *lanterns(left, right),
        *advertising_column(),
        *pillar(),
        *crates(),
        *hedge(),
        *menu(),
    )


def ground() -> Surface:
    """Ground with paving, larger than what the views see of it."""
    size = (11.0, 7.5)
    stones = [(0.48, 0.45, 0.42), (0.6, 0.55, 0.48), (0.44, 0.44, 0.47), (0.2, 0.19, 0.17)]
    return Surface(
        corner=np.array([-size[0] / 2, 3.2, 0]),
        right=np.array([size[0], 0, 0]),
        down=np.array([0, -size[1], 0]),
        texture=masonry(size, DENSITY, (0.52, 0.36), 0.03, stones, seed=1, gain=0.5),
    )


def walls() -> tuple[Surface, Surface, Surface]:
    """Walls of brick at the back and of plaster on both sides, which open towards the visitors."""
    bricks = [(0.5, 0.24, 0.17), (0.66, 0.36, 0.25), (0.58, 0.42, 0.32), (0.62, 0.58, 0.52)]
    brick = masonry((5.8, 3.5), DENSITY, (0.27, 0.09), 0.018, bricks, seed=2)
    ochre = plaster((4.0, 3.0), DENSITY, (0.82, 0.66, 0.38), seed=3)
    grey = plaster((4.0, 2.7), DENSITY, (0.66, 0.7, 0.7), seed=4)
    for texture, seed in ((ochre, 5), (grey, 6)):
        plinth = masonry((4.0, 0.45), DENSITY, (0.6, 0.23), 0.02, [_grey(0.4), _grey(0.55)], seed)
        texture[-len(plinth) :] = plinth
    paste(ochre, window((0.16, 0.36, 0.3), seed=8), (0.07, 0.22, 0.42, 0.58))
    paste(grey, window((0.4, 0.2, 0.14), seed=7), (0.62, 0.2, 0.96, 0.6))
    back = wall((-2.9, 3.0), (2.9, 3.0), 3.5, brick)
    left = wall((-4.7, -0.5), (-2.9, 3.0), 2.7, grey)
    right = wall((2.9, 3.0), (4.7, -0.5), 3.0, ochre)
    return back, left, right


def coping(on: Surface) -> tuple[Surface, ...]:
    """Slabs that cover the top of a wall and stand out from it."""
    length, _ = on.lengths
    slabs = [(0.62, 0.58, 0.52), (0.72, 0.68, 0.6), (0.3, 0.28, 0.25)]
    face = masonry((length, 0.14), DENSITY, (0.7, 0.14), 0.015, slabs, seed=int(100 * length))
    return hang(on, (length / 2, 0.0), (length, 0.14, 0.07), face, face)


def tower() -> tuple[Surface, ...]:
    """Tower further away, above the wall."""
    stones = [(0.55, 0.52, 0.45), (0.7, 0.66, 0.58), (0.4, 0.38, 0.34)]
    face = masonry((2.4, 8.0), 60.0, (0.6, 0.3), 0.03, stones, seed=9)
    return box((-2.2, 9.0), (2.4, 2.4, 8.0), 20.0, [face], plain(OAK))


def pictures(back: Surface, left: Surface, right: Surface) -> tuple[Surface, ...]:
    """Framed photographs on the walls."""

    def picture(
        on: Surface, name: str, along: float, below: float, height: float
    ) -> tuple[Surface, ...]:
        face = framed(photograph(name), 0.05, IRON, WHITE)
        size = (height * face.shape[1] / face.shape[0], height, 0.05)
        return hang(on, (along, below), size, face, plain(IRON))

    return (
        *picture(back, "astronaut", 1.0, 1.35, 1.4),
        *picture(back, "coffee", 2.85, 1.15, 1.0),
        *picture(back, "rocket", 4.7, 1.3, 1.15),
        *picture(left, "chelsea", 1.05, 1.2, 1.05),
        *picture(right, "camera", 2.85, 1.45, 1.2),
    )


def lanterns(left: Surface, right: Surface) -> tuple[Surface, ...]:
    """Lanterns on both side walls; NIGHT has its lamps before them."""
    glass = framed(plain((1.0, 0.95, 0.8)), 0.2, IRON, IRON)
    return tuple(
        part
        for on, middle in ((left, (2.13, 0.45)), (right, (1.9, 0.6)))
        for part in hang(on, middle, (0.16, 0.26, 0.14), glass, plain(IRON))
    )


def advertising_column() -> tuple[Surface, ...]:
    """Column of eight faces with posters around, none of them twice."""
    wrap = plaster((2.9, 2.2), 2 * DENSITY, (0.3, 0.46, 0.4), seed=10)
    horse = tinted(photograph("horse"), (0.5, 0.1, 0.08), (0.95, 0.85, 0.6))
    tiles = [(0.85, 0.2, 0.15), (0.95, 0.8, 0.3), (0.95, 0.93, 0.85), (0.15, 0.35, 0.6), (0.2,) * 3]
    mosaic = masonry((0.6, 0.6), 2 * DENSITY, (0.05, 0.05), 0.006, tiles, seed=11)
    paste(wrap, photograph("coins"), (0.27, 0.08, 0.49, 0.34))
    paste(wrap, horse, (0.3, 0.4, 0.46, 0.66))
    paste(wrap, photograph("immunohistochemistry"), (0.52, 0.06, 0.72, 0.44))
    paste(wrap, mosaic, (0.55, 0.5, 0.71, 0.71))
    paste(wrap, photograph("retina"), (0.76, 0.12, 0.96, 0.4))
    paste(wrap, photograph("hubble_deep_field")[:400], (0.74, 0.46, 0.98, 0.68))
    return column((-1.35, 0.9), 0.46, 2.2, 8, wrap)


def pillar() -> tuple[Surface, ...]:
    """Pillar of boards, with a photograph on each side but the back."""
    stars = photograph("hubble_deep_field")[420:]
    photos = (stars[:, :450], photograph("moon"), None, stars[:, 550:])
    faces = [wood((0.72, 1.6), 2 * DENSITY, seed) for seed in range(20, 24)]
    for face, photo in zip(faces, photos, strict=True):
        if photo is not None:
            paste(face, framed(photo, 0.04, IRON, WHITE), (0.06, 0.05, 0.94, 0.47))
    return box((0.75, 1.35), (0.72, 0.72, 1.6), -24.0, faces, plain(OAK))


def wood(size: tuple[float, float], density: float, seed: int) -> Texture:
    """Texture of upright boards, with grain along them."""
    tones = [(0.5, 0.34, 0.2), (0.68, 0.5, 0.31), (0.16, 0.1, 0.06)]
    lying = masonry((size[1], size[0]), density, (3.0, 0.12), 0.012, tones, seed, gain=0.1)
    height, width = lying.shape[:2]
    grain = noise(height, max(2, width // 12), 12.0, seed, octaves=3)[..., None]
    lying *= 0.55 + 0.9 * resized(grain, height, width)
    return np.ascontiguousarray(lying.clip(0, 1).transpose(1, 0, 2))


def crates() -> tuple[Surface, ...]:
    """Two crates, one on the other."""
    boards = [wood((0.62, 0.62), 2 * DENSITY, seed) for seed in range(30, 34)]
    lower = box((1.95, 0.15), (0.62, 0.62, 0.6), 28.0, boards, boards[3])
    small = [b[:200, :200] for b in boards]
    upper = box((1.98, 0.2), (0.4, 0.4, 0.36), -8.0, small[1:], small[0], base=0.6)
    return lower + upper


def _grey(tone: float) -> Colour:
    return tone, tone, tone


def hedge() -> tuple[Surface, ...]:
    """Hedge in a trough along the left wall."""
    leaves = lawn((2.2, 0.45), 1.5 * DENSITY, seed=40)
    trough = masonry((2.2, 0.35), DENSITY, (0.55, 0.35), 0.02, [_grey(0.5), _grey(0.62)], 41)
    turn = float(np.degrees(np.arctan2(3.5, 1.8)))
    place = (-3.3, 0.9)
    return (
        *box(place, (2.2, 0.5, 0.35), turn, [trough], trough),
        *box(place, (2.1, 0.4, 0.4), turn, [leaves], leaves, base=0.35),
    )


def menu() -> tuple[Surface, ...]:
    """A board that leans back, with text."""
    page, note = photograph("page"), resized(photograph("text")[:, :300], 220, 384)
    face = framed(np.concatenate([page, note]), 0.05, OAK, WHITE)
    turn = np.radians(14)
    right = np.array([np.cos(turn), np.sin(turn), 0])
    away = np.array([-np.sin(turn), np.cos(turn), 0])
    front = Surface(
        corner=np.array([-0.5, -0.3, 0.95]) + 0.25 * away,
        right=0.7 * right,
        down=np.array([0, 0, -0.95]) - 0.25 * away,
        texture=face,
    )
    return block(front, 0.03, [plain(OAK)], plain(OAK))
