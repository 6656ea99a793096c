"""EXIF's eight orientations: images as they are stored, and the right way up.

Features are extracted from upright images, since those of a network are not those of its turned
image; what is stored, in databases, models and depth maps, is in pixels of the stored image, as
COLMAP's is. Places have (0, 0) at the centre of the first pixel, sizes are (w, h).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from d2_hloc.core.pixels import Array

UPRIGHT = 1  # an image that is stored the right way up
ORIENTATIONS = range(1, 9)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The way from stored pixels to upright ones: mirrored in x, in y, then x and y swapped."""

    mirrors_x: bool = False
    mirrors_y: bool = False
    swaps: bool = False


TURNS = {
    1: Turn(),
    2: Turn(mirrors_x=True),
    3: Turn(mirrors_x=True, mirrors_y=True),
    4: Turn(mirrors_y=True),
    5: Turn(swaps=True),
    6: Turn(mirrors_y=True, swaps=True),  # a quarter turn clockwise makes it upright
    7: Turn(mirrors_x=True, mirrors_y=True, swaps=True),
    8: Turn(mirrors_x=True, swaps=True),
}
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
CLOCKWISE = (1, 6, 3, 8), (2, 7, 4, 5)  # each the one before, turned once more


def upright_image(image: Image.Image, orientation: int) -> Image.Image:
    """Turn a stored image the right way up."""
    return image if orientation == UPRIGHT else image.transpose(TRANSPOSES[orientation])


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """The size of the upright image, from that of the stored one, or the other way round."""
    width, height = size
    return (height, width) if TURNS[orientation].swaps else size


def to_upright(xy: Array, orientation: int, size: tuple[int, int]) -> Array:
    """Places (N, 2) in a stored image of a size -> in the upright one."""
    turn = TURNS[orientation]
    xy = _mirrored(xy, turn, size)
    return xy[:, [1, 0]] if turn.swaps else xy


def to_stored(xy: Array, orientation: int, size: tuple[int, int]) -> Array:
    """Places (N, 2) in an upright image -> in the stored one, whose size is given."""
    turn = TURNS[orientation]
    return _mirrored(xy[:, [1, 0]] if turn.swaps else xy, turn, size)


def _mirrored(xy: Array, turn: Turn, size: tuple[int, int]) -> Array:
    mirrors = turn.mirrors_x, turn.mirrors_y
    signs = [-1 if is_mirrored else 1 for is_mirrored in mirrors]
    starts = [
        edge - 1 if is_mirrored else 0 for edge, is_mirrored in zip(size, mirrors, strict=True)
    ]
    if isinstance(xy, Tensor):
        return xy * xy.new_tensor(signs) + xy.new_tensor(starts)
    return xy * np.array(signs, xy.dtype) + np.array(starts, xy.dtype)


def turned(orientation: int, quarters: int) -> int:
    """The orientation of an image that is upright after so many more quarter turns clockwise."""
    cycle = next(c for c in CLOCKWISE if orientation in c)
    return cycle[(cycle.index(orientation) + quarters) % 4]
