"""The name of a feature, and the options of each family."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from d2_hloc.core.ranges import MANY, check_ranges
from d2_hloc.network.cell_options import CellOptions
from d2_hloc.network.d2net import MULTISCALE, D2NetOptions


@dataclass(frozen=True, kw_only=True)
class SiftOptions:
    """Options of COLMAP's SIFT, with its defaults; the number of threads is none of them."""

    max_keypoints: int = 8192
    peak_threshold: float = 0.02 / 3
    edge_threshold: float = 10.0

    def __post_init__(self) -> None:
        check_ranges(
            self, max_keypoints=(1, 10**7), peak_threshold=(0, 100), edge_threshold=(1e-6, 1e6)
        )


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """A feature by name (registry.MODULES), with the options of all families; its own apply.

    `kornia_keypoints` is the largest number of those of kornia; None is kornia's own.
    """

    feature: str = "d2net"
    d2net: D2NetOptions = field(default_factory=D2NetOptions)
    cells: CellOptions = field(default_factory=CellOptions)
    sift: SiftOptions = field(default_factory=SiftOptions)
    kornia_keypoints: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self, kornia_keypoints=(1, MANY))

    @property
    def d2net_options(self) -> D2NetOptions:
        """d2net's options; 'd2net-ms' is the paper's three scales unless others are asked for."""
        is_default = self.d2net.scales == D2NetOptions().scales
        if self.feature == "d2net-ms" and is_default:
            return replace(self.d2net, scales=MULTISCALE)
        return self.d2net
