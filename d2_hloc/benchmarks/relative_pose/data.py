"""Pairs of images with known relative pose, in the form of SuperGlue's evaluation: a line a pair,

    name0 name1 rotation0 rotation1 K0 (9 numbers) K1 (9) T_0to1 (16)

matrices row by row. K and T are those of the images as they are stored, lengths in any unit. The
rotations, in quarter turns, say how an image would stand upright; nothing here turns images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from d2_hloc.core.names import image_names
from d2_hloc.core.text import numbered_lines
from d2_hloc.matching.pairs import Pair

NUM_FIELDS = 38
MOST_SHOWN = 500  # characters of what is wrong with a line


class PairListError(ValueError):
    """A list that cannot be used; the text names the file and the line."""


@dataclass(frozen=True, kw_only=True)
class PosedPair:
    """Two images by name, and the pose between them."""

    name0: str
    name1: str
    quarter_turns: tuple[int, int]
    intrinsics0: Float[np.ndarray, "3 3"]  # (0, 0) is the centre of the first pixel
    intrinsics1: Float[np.ndarray, "3 3"]
    cam1_from_cam0: Float[np.ndarray, "4 4"]

    @property
    def names(self) -> Pair:
        return self.name0, self.name1


def read_posed_pairs(path: Path) -> list[PosedPair]:
    """Read a list of pairs with their poses.

    Raises:
        PairListError: if it cannot be read, is empty, or a line is of another form.
    """
    pairs = []
    for number, line in numbered_lines(path):
        image_names(line.split()[:2], f"{path}, line {number}")
        try:
            pairs.append(_read_line(line.split()))
        except ValueError as error:
            raise PairListError(f"{path}, line {number}: {str(error)[:MOST_SHOWN]}.") from error
    if not pairs:
        raise PairListError(f"{path}: holds no pair.")
    return pairs


def _read_line(fields: list[str]) -> PosedPair:
    if len(fields) != NUM_FIELDS:
        raise ValueError(f"has {len(fields)} fields instead of {NUM_FIELDS}")
    numbers = np.array(fields[4:], dtype=float)
    if not np.isfinite(numbers).all():
        raise ValueError("holds numbers that are not finite")
    return PosedPair(
        name0=fields[0],
        name1=fields[1],
        quarter_turns=(int(fields[2]), int(fields[3])),
        intrinsics0=_intrinsics(numbers[:9], "K0"),
        intrinsics1=_intrinsics(numbers[9:18], "K1"),
        cam1_from_cam0=_pose(numbers[18:]),
    )


def _intrinsics(numbers: Float[np.ndarray, " 9"], name: str) -> Float[np.ndarray, "3 3"]:
    matrix = numbers.reshape(3, 3)
    focal_x, focal_y = matrix[0, 0], matrix[1, 1]
    expected = np.array([[focal_x, 0, matrix[0, 2]], [0, focal_y, matrix[1, 2]], [0, 0, 1]])
    if min(focal_x, focal_y) <= 0 or not np.allclose(matrix, expected, atol=1e-6):
        raise ValueError(f"{name} is not that of a camera without skew: {numbers.tolist()}")
    return matrix


def _pose(numbers: Float[np.ndarray, " 16"]) -> Float[np.ndarray, "4 4"]:
    matrix = numbers.reshape(4, 4)
    rotation = matrix[:3, :3]
    is_rotation = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)
    if not is_rotation or np.linalg.det(rotation) < 0 or not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise ValueError(f"T_0to1 is not a rotation and a translation: {numbers.tolist()}")
    if not matrix[:3, 3].any():
        raise ValueError("T_0to1 has no translation, so its direction cannot be measured")
    return matrix
