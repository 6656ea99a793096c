"""Description (Eq. 1): the maps at a position, across all channels, at unit length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def has_corners(positions: Float[Tensor, "N 2"], height: int, width: int) -> Bool[Tensor, " N"]:
    """Mask of the positions (row, column) whose four cells around lie in the map."""
    low, high = positions.floor(), positions.ceil()
    size = positions.new_tensor([height, width])
    return ((low >= 0) & (high < size)).all(dim=1)


def describe(maps: Float[Tensor, "D h w"], positions: Float[Tensor, "N 2"]) -> Float[Tensor, "N D"]:
    """Descriptors (Eq. 1) at fractional positions (row, column): bilinear, then unit length."""
    by_cell = maps.permute(1, 2, 0)
    low, high = positions.floor().long(), positions.ceil().long()
    di, dj = (positions - low).T[..., None]
    top = torch.lerp(_at(by_cell, low, low), _at(by_cell, low, high), dj)
    bottom = torch.lerp(_at(by_cell, high, low), _at(by_cell, high, high), dj)
    return F.normalize(torch.lerp(top, bottom, di), dim=1)


def _at(by_cell: Float[Tensor, "h w D"], rows: Tensor, columns: Tensor) -> Float[Tensor, "N D"]:
    return by_cell[rows[:, 0], columns[:, 1]].float()


class GeneralizedMean:
    """Global descriptor: the maps' generalized mean (GeM), gathered strip by strip."""

    POWER = 3

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, maps: Float[Tensor, "D h w"]) -> None:
        """Take in non-negative maps."""
        part = maps.permute(1, 2, 0).flatten(0, 1).float().pow(self.POWER).sum(dim=0)
        self.total = part if self.total is None else self.total + part

    def result(self) -> Float[Tensor, " D"]:
        """The descriptor, of unit length; the number of cells cancels out.

        Raises:
            ValueError: if no maps were added.
        """
        if self.total is None:
            raise ValueError("No maps were added.")
        return F.normalize(self.total.pow(1 / self.POWER), dim=0)
