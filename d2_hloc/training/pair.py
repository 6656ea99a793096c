"""A training pair: two crops with correspondences; and the sources of such pairs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.pixels import TRAINING_STRIDE, cells_to_pixels

logger = logging.getLogger(__name__)

T = TypeVar("T")

CROP = 256  # pixels, an edge of the paper's crops
LARGEST_CROP = 8192  # pixels
MIN_CORRESPONDENCES = 128  # fewer give no meaningful gradient


@dataclass(frozen=True, kw_only=True)
class TrainingPair:
    """Two crops and the pixels of both that show the same point.

    Row k of `xy0` and row k of `xy1` belong together. `xy0` are centres of the training form's
    cells, each at most once. (0, 0) is the centre of a crop's first pixel.
    """

    name: str
    image0: Float[Tensor, "3 H W"]  # RGB in [0, 1]
    image1: Float[Tensor, "3 H W"]
    xy0: Float[Tensor, "K 2"]
    xy1: Float[Tensor, "K 2"]

    def __len__(self) -> int:
        return len(self.xy0)


@runtime_checkable
class PairSource(Protocol):
    """Pairs by number. The same epoch and index give the same pair, in whatever process."""

    @property
    def crop(self) -> int:
        """Edge of its crops, in pixels."""
        ...

    @property
    def identity(self) -> str:
        """Digest that tells the data behind the pairs from other data, for what is kept of them."""
        ...

    def __len__(self) -> int:
        """Pairs in an epoch."""
        ...

    def pair(self, epoch: int, index: int) -> TrainingPair | None:
        """A pair; None, and a warning that names the file, where it cannot be made."""
        ...


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one pair, apart from those of every other."""
    return np.random.default_rng([seed, epoch, index])


def check_crop(crop: int) -> None:
    """Raise ValueError for a size of crops, in pixels, that the network's cells do not divide."""
    if crop % 8 or not 64 <= crop <= LARGEST_CROP:
        raise ValueError(
            f"crop must be a multiple of 8 and 64 at least, {LARGEST_CROP} at most, not {crop}."
        )


def cell_centres(width: int, height: int) -> Float[np.ndarray, "N 2"]:
    """Pixels (x, y) of the training form's cells in an image, row by row."""
    columns, rows = np.meshgrid(
        np.arange(width // TRAINING_STRIDE), np.arange(height // TRAINING_STRIDE)
    )
    cells = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float)
    return cells_to_pixels(cells, TRAINING_STRIDE)


def are_inside(xy: Float[np.ndarray, "N 2"], width: int, height: int) -> np.ndarray:
    """Mask of the positions between the centres of an image's outermost pixels."""
    limits = np.array([width - 1, height - 1])
    return np.all((xy >= 0) & (xy <= limits), axis=1)  # False for NaN


def to_float(xy: np.ndarray) -> Tensor:
    """Positions as the loop takes them."""
    return torch.from_numpy(np.ascontiguousarray(xy, dtype=np.float32)).reshape(-1, 2)


def split(names: Sequence[T], share: float, seed: int) -> tuple[list[T], list[T]]:
    """(to train with, held back): `share` of them at random, at least one of either.

    Raises:
        ValueError: if there are fewer than two.
    """
    if len(names) < 2:
        raise ValueError(f"{len(names)} photograph or scene cannot be split in two; give more.")
    order = np.random.default_rng(seed).permutation(len(names))
    count = min(max(1, round(share * len(names))), len(names) - 1)
    held = set(order[:count].tolist())
    kept = [name for i, name in enumerate(names) if i not in held]
    return kept, [name for i, name in enumerate(names) if i in held]


@lru_cache(maxsize=1 << 16)
def warn_once(text: str) -> None:
    """Say what is wrong with a file; epochs come back to it."""
    logger.warning(text)
