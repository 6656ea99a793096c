"""Textures: photographs that scikit-image ships, and what can be made of noise. sRGB in [0, 1].

The photographs are in its wheel: nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from d2_hloc.app.scene.surface import Texture

Colour = tuple[float, float, float]
Map = Float[np.ndarray, "{height} {width}"]


@cache
def photograph(name: str) -> Texture:
    """Photograph that scikit-image ships: astronaut, camera, chelsea, coffee, coins, gravel, ..."""
    from skimage import data, util

    pixels: np.ndarray = util.img_as_float32(getattr(data, name)())
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    alpha = pixels[..., 3:] if pixels.shape[2] == 4 else np.ones_like(pixels[..., :1])
    return pixels[..., :3] * alpha + (1 - alpha)  # what is transparent shows white


def plain(colour: Colour) -> Texture:
    """Texture of one colour, of a few pixels."""
    return np.full((4, 4, 3), colour, np.float32)


def tinted(grey: Float[np.ndarray, "h w _"], dark: Colour, light: Colour) -> Texture:
    """Texture whose brightness becomes a colour between two."""
    amount = grey.mean(axis=2, keepdims=True)
    return (np.array(dark) * (1 - amount) + np.array(light) * amount).astype(np.float32)


def resized(
    texture: Float[np.ndarray, "_ _ C"], height: int, width: int
) -> Float[np.ndarray, "{height} {width} C"]:
    """Resize a texture, filtered so that a smaller one does not alias."""
    image = torch.from_numpy(np.ascontiguousarray(texture)).permute(2, 0, 1)[None]
    image = F.interpolate(image, size=(height, width), mode="bilinear", antialias=True)
    return image[0].permute(1, 2, 0).clamp(0, 1).numpy()


def noise(height: int, width: int, cell: float, seed: int, octaves: int = 4) -> Map:
    """Clouds (h, w) about 0.5, mostly in [0, 1]: the largest are `cell` pixels wide."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        step = cell / 2**octave
        rows, columns = (max(2, int(np.ceil(n / step)) + 1) for n in (height, width))
        grid = torch.from_numpy(random.random((1, 1, rows, columns), np.float32))
        smooth = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=True)
        total += (smooth[0, 0].numpy() - 0.5) / 2**octave
    return 0.5 + 0.75 * total


def scattered(name: str, height: int, width: int, gain: float) -> Map:
    """Detail (h, w) about 1 from a photograph that is repeated, mirrored, at one pixel a pixel."""
    grey = photograph(name).mean(axis=2)
    grey = np.concatenate([grey, grey[::-1]])
    grey = np.concatenate([grey, grey[:, ::-1]], axis=1)
    rows, columns = (-(-n // m) for n, m in zip((height, width), grey.shape, strict=True))
    return 1 + gain * (np.tile(grey, (rows, columns))[:height, :width] / grey.mean() - 1)


def masonry(
    size: tuple[float, float],
    density: float,
    stone: tuple[float, float],
    joint: float,
    colours: Sequence[Colour],
    seed: int,
    gain: float = 0.35,
) -> Texture:
    """Rows of bricks, slabs or planks, no two alike; (w, h) of wall, stone and joint in metres.

    `density`: pixels a metre. The last colour is the joint's.
    """
    width, height = (round(s * density) for s in size)
    random = np.random.default_rng(seed)
    wobble = [(noise(height, width, density / 3, seed + k) - 0.5) * joint * 1.5 for k in (1, 2)]
    y = np.arange(height)[:, None] / density + wobble[0]
    row = np.floor(y / stone[1]).astype(int) + 1
    shift = random.random(row.max() + 1) * 0.3 + np.arange(row.max() + 1) % 2 * 0.5
    x = np.arange(width)[None] / density + wobble[1] + shift[row] * stone[0]
    column = np.floor(x / stone[0]).astype(int) + 1
    inside = np.minimum(_edge_distance(x, stone[0]), _edge_distance(y, stone[1]))
    cover = np.clip((inside - joint / 3) / (joint / 3), 0, 1)[..., None]
    table = random.random((row.max() + 1, column.max() + 1, 4))[row, column]
    pixels = _mix(colours[:-1], table[..., 0]) * (0.8 + 0.4 * table[..., 1:2])
    pixels = pixels * _grain("gravel", table[..., 2:], gain)[..., None]
    return np.clip(colours[-1] * (1 - cover) + pixels * cover, 0, 1).astype(np.float32)


def _edge_distance(x: np.ndarray, period: float) -> np.ndarray:
    return period / 2 - np.abs(np.mod(x, period) - period / 2)


def _mix(colours: Sequence[Colour], amount: np.ndarray) -> np.ndarray:
    """Colours along the list, `amount` from 0 to 1."""
    knots = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(amount, knots, band) for band in zip(*colours, strict=True)], axis=2)


def _grain(name: str, offsets: Float[np.ndarray, "h w 2"], gain: float) -> np.ndarray:
    """Detail about 1 from a photograph, of which every stone shows another part."""
    grey = photograph(name).mean(axis=2)
    rows, columns = grey.shape
    y = np.arange(offsets.shape[0])[:, None] + (offsets[..., 0] * rows).astype(int)
    x = np.arange(offsets.shape[1])[None] + (offsets[..., 1] * columns).astype(int)
    return 1 + gain * (grey[y % rows, x % columns] / grey.mean() - 1)


def plaster(size: tuple[float, float], density: float, colour: Colour, seed: int) -> Texture:
    """A rendered wall: stains, some grain, darker towards the ground."""
    width, height = (round(s * density) for s in size)
    stains = noise(height, width, density * 0.9, seed, octaves=6)
    damp = np.linspace(1.05, 0.85, height)[:, None]
    value = (0.75 + 0.5 * stains) * damp * scattered("gravel", height, width, 0.1)
    return np.clip(value[..., None] * np.array(colour), 0, 1).astype(np.float32)


def lawn(size: tuple[float, float], density: float, seed: int) -> Texture:
    """Texture of grass, or of the leaves of a hedge."""
    width, height = (round(s * density) for s in size)
    value = scattered("grass", height, width, 0.9) * (0.6 + noise(height, width, density / 2, seed))
    return tinted(np.clip(value / 2, 0, 1)[..., None], (0.05, 0.11, 0.03), (0.55, 0.72, 0.25))


def framed(picture: Texture, border: float, frame: Colour, mat: Colour) -> Texture:
    """A picture in a mat and a frame, each `border` of its height wide."""
    edge = max(1, round(border * picture.shape[0]))
    for colour in (mat, frame):
        pad = [(edge, edge), (edge, edge)]
        picture = np.stack(
            [np.pad(picture[..., k], pad, constant_values=colour[k]) for k in range(3)], axis=2
        )
    return picture


def paste(texture: Texture, picture: Texture, box: tuple[float, float, float, float]) -> None:
    """Put a picture into a texture, at (left, top, right, bottom) as fractions of it."""
    height, width = texture.shape[:2]
    left, right = (round(box[k] * width) for k in (0, 2))
    top, bottom = (round(box[k] * height) for k in (1, 3))
    texture[top:bottom, left:right] = resized(picture, bottom - top, right - left)


def window(shutter: Colour, seed: int) -> Texture:
    """A window of 1.5 x 1.2 m with its shutters open: panes that mirror some sky."""
    height, width = 240, 300
    glass = 0.12 + 0.35 * noise(height, width, 160.0, seed)[..., None] * np.array([0.7, 0.9, 1.1])
    picture = glass.astype(np.float32)
    panes = slice(80, 220)
    for x in (75, 147, 218):
        picture[:, x : x + 7] = 0.9
    for y in (0, 116, 233):
        picture[y : y + 7, panes] = 0.9
    louvres = 0.7 + 0.3 * (np.arange(height) % 14 / 14)[:, None, None]
    for part in (slice(0, 75), slice(225, 300)):
        picture[:, part] = np.array(shutter) * louvres
        picture[[*range(6), *range(112, 120), *range(234, 240)], part] = np.array(shutter)
    return picture
