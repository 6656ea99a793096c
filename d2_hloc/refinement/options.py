"""Options of sub-pixel keypoints."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from d2_hloc.core.ranges import MANY, PIXELS, check_ranges
from d2_hloc.network.options import Precision


@dataclass(frozen=True, kw_only=True)
class RefinementOptions:
    """Sizes in cells: a radius of 3 is 7 x 7. The windows reach 6 pixels, then 2 around the place
    found; a cell of conv2_2 is two pixels.

    `fine_score`: conv1_2 has the last word only where patches agree so well there (cosine): it is
    sharper than conv2_2 between images alike, and misleads where the light differs.
    `neighbours`: verified matches that a local affinity is fitted to; 0 leaves patches unwarped.
    `ambiguity`: a rival peak, 3 cells or more away, must be lower by so much (cosine).

    Attributes:
        enabled: move keypoints to sub-pixel places.
        coarse_patch: radius of the patch that is compared on conv2_2, cells of 2 pixels.
        coarse_window: radius that it is looked for in, cells of 2 pixels.
        fine_patch: radius of the patch that is compared on conv1_2, pixels.
        fine_window: radius that it is looked for in, pixels; 0 leaves conv1_2 out.
        fine_score: least cosine at which conv1_2 has the last word.
        neighbours: verified matches that a local affinity is fitted to; 0 leaves patches unwarped.
        ambiguity: least cosine by which the best place must exceed a rival 3 cells away.
        precision: of the arithmetic that the maps come from.
    """

    enabled: bool = False
    coarse_patch: int = 3
    coarse_window: int = 3
    fine_patch: int = 5
    fine_window: int = 2  # 0: conv2_2 alone
    fine_score: float = 0.9
    neighbours: int = 16
    ambiguity: float = 0.01
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_ranges(
            self,
            coarse_patch=(1, 50),
            coarse_window=(1, 50),
            fine_patch=(1, 50),
            fine_window=(0, 50),
            fine_score=(-1, 1),
            neighbours=(0, 1000),
            ambiguity=(0, 2),
        )

    @property
    def searched(self) -> float:
        """Side of the square that a keypoint is looked for in, pixels."""
        return 4.0 * self.coarse_window

    def reaching(self, pixels: float) -> RefinementOptions:
        """The same options with windows and patches for keypoints that are so far off."""
        if not pixels:
            return self
        window = math.ceil(pixels / 2) + 1  # of cells of 2 pixels; a peak is not at the border
        patch = max(self.coarse_patch, window - 1)
        return replace(self, coarse_window=max(self.coarse_window, window), coarse_patch=patch)


@dataclass(frozen=True, kw_only=True)
class SpreadingOptions:
    """Where matches are looked for around refined ones; pixels of the images as extracted from.

    `support` is asked of matches by those around them once they are refined (local consistency),
    where no geometry tells right from wrong.

    Attributes:
        enabled: look for more matches around refined ones.
        support: by those around it that a refined match has to have.
        reach: of the fourth nearest refined match from a keypoint that is looked for, pixels.
        neighbours: refined matches that say where it is expected.
        agreement: largest median error of these by the affinity that they are fitted by, pixels.
        snap: of the nearest keypoint from the place that was found, pixels.
        steps: how often matches spread.
    """

    enabled: bool = False
    support: float = 15.0
    reach: float = 100.0
    neighbours: int = 8
    agreement: float = 4.0
    snap: float = 10.0
    steps: int = 4

    def __post_init__(self) -> None:
        check_ranges(
            self,
            support=(0, MANY),
            reach=PIXELS,
            neighbours=(4, 1000),
            agreement=PIXELS,
            snap=PIXELS,
            steps=(1, 100),
        )
