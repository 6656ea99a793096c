"""Options of dense features, apart from the code: kornia takes seconds to import."""

from __future__ import annotations

from dataclasses import dataclass

from d2_hloc.core.ranges import MANY, check_ranges
from d2_hloc.network.backbone import DIMENSION

LEAST_CELLS = 64  # of a budget


@dataclass(frozen=True, kw_only=True)
class CellOptions:
    """Options of dense features.

    `max_cells` bounds the cells of an image: a larger image is described at a smaller size, its
    corners are found in the whole. `min_texture` is the least response of a corner (Shi and Tomasi,
    of grey values in [0, 1]): cells below are left out. `dimensions` of a descriptor after
    projection; None leaves all 512.
    """

    max_cells: int = 30_000
    min_texture: float = 1e-6
    dimensions: int | None = 128

    def __post_init__(self) -> None:
        check_ranges(
            self, max_cells=(LEAST_CELLS, MANY), min_texture=(0, 1), dimensions=(1, DIMENSION)
        )
