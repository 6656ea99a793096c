"""Coordinate conventions, all of them; the only file with a 0.5 in it.

Keypoints are (x, y) with (0, 0) at the centre of the first pixel, as in hloc. COLMAP puts that
centre at (0.5, 0.5). A cell of the test network's maps stands for 4 x 4 pixels.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)
Coordinates = TypeVar("Coordinates", Tensor, np.ndarray, float)
Position = Literal["centre", "released"]

STRIDE = 4  # pixels a cell of the test network
TRAINING_STRIDE = 8  # of the training form, all of whose poolings do not overlap
# Pixel of cell 0. The receptive field's centre is 3.5: 1.5 from two poolings of 2 x 2, and 2 from
# the average pooling of stride 1, which the released code leaves out.
CELL_OFFSET = {"centre": 3.5, "released": 1.5}


def rescale(xy: Array, scale: float | Array) -> Array:
    """Follow an image resized by new / old, a number or one an axis."""
    return (xy + 0.5) * scale - 0.5


def resize_matrix(scale_x: float, scale_y: float) -> np.ndarray:
    """Homography (3, 3) that does what rescale() does, to be joined with others."""
    shift = rescale(np.zeros(2), np.array([scale_x, scale_y]))
    return np.array([[scale_x, 0, shift[0]], [0, scale_y, shift[1]], [0, 0, 1]])


def to_colmap(xy: Coordinates) -> Coordinates:
    """Pixel centres at integers -> COLMAP's, at half-integers."""
    return xy + 0.5


def from_colmap(xy: Coordinates) -> Coordinates:
    """COLMAP's pixel centres, at half-integers -> at integers."""
    return xy - 0.5


def image_centre(width: int, height: int) -> tuple[float, float]:
    """The middle of an image in COLMAP's coordinates."""
    return 0.5 * width, 0.5 * height


def cells_to_level(cells: Float[Tensor, "N 2"], position: Position) -> Float[Tensor, "N 2"]:
    """Cells (x, y) of the test network's maps -> pixels of the pyramid level they came from."""
    return cells * STRIDE + CELL_OFFSET[position]


def pixels_to_cells(xy: Float[Tensor, "N 2"], stride: int) -> Float[Tensor, "N 2"]:
    """Pixels -> cells of maps that non-overlapping pooling made: a cell is stride x stride."""
    return (xy + 0.5) / stride - 0.5


def cells_to_pixels(cells: Array, stride: int) -> Array:
    """Undo pixels_to_cells, for positions (N, 2)."""
    return (cells + 0.5) * stride - 0.5


def level_to_image(
    xy: Float[Tensor, "N 2"],
    level_size: tuple[int, int],
    image_size: tuple[int, int],
    position: Position,
) -> Float[Tensor, "N 2"]:
    """Pixels of a pyramid level -> pixels of the image; sizes are (w, h).

    Levels are made with align_corners=True, which maps the corner pixels' centres onto each other:
    'centre' undoes exactly that. 'released' multiplies by the ratio of sizes, as the released code.
    """
    level, image = (torch.tensor(size, dtype=xy.dtype) for size in (level_size, image_size))
    if position == "centre":
        level, image = (level - 1).clamp(min=1), image - 1
    return xy * (image / level).to(xy.device)
