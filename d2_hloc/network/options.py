"""Options of D2-Net; nothing here loads torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from d2_hloc.core.ranges import MANY, check_ranges
from d2_hloc.network.weights.catalogue import absolute_source

MULTISCALE = (0.5, 1.0, 2.0)
# Of an image 1.41 times as large, edges kept, and again with coarser maps added (docs/matcher.md);
# more keypoints of a pyramid take the learned matcher too long.
FINE = {
    "scales": (1.41,),
    "second_scales": (0.71, 1.41),
    "edge_threshold": 1e6,
    "max_keypoints": 6000,
}
PARTS = 4  # of a cell of conv4_3: the cells of conv3_3 in it
PART_DIMENSION = 256  # of conv3_3
Precision = Literal["float32", "float16", "bfloat16"]
SCALES = 0.01, 16.0  # beyond, nothing is left of an image, or it is no longer held in memory


@dataclass(frozen=True, kw_only=True)
class D2NetOptions:
    """Options of D2-Net; the defaults are single-scale and off the shelf.

    `position`: 'centre' puts a keypoint at its receptive field's centre; 'released' where the
    authors' code does, 2 pixels of the level up and to the left of it.

    Attributes:
        weights: d2_ots (bundled), a published name (d2-hloc weights), or a checkpoint's path.
        scales: sizes of the image that features are found in, over its own size, coarse to fine.
        second_scales: sizes of a second pyramid, whose features are found and matched apart from
            the first one's; without sizes there is none.
        max_keypoints: largest number of keypoints of an image by each pyramid, the best by score;
            null keeps all.
        edge_threshold: largest ratio of a peak's principal curvatures; larger keeps more edges.
        position: where a cell's keypoint lies: its receptive field's centre, or as the authors'
            code.
        precision: of the network's arithmetic.
    """

    weights: str = "d2_ots"
    scales: tuple[float, ...] = (1.0,)
    second_scales: tuple[float, ...] = ()
    max_keypoints: int | None = None
    edge_threshold: float = 5.0
    position: Literal["centre", "released"] = "centre"
    precision: Precision = "float32"

    @property
    def pyramids(self) -> tuple[tuple[float, ...], ...]:
        """The sizes of each image pyramid that features are found in."""
        return (self.scales, self.second_scales) if self.second_scales else (self.scales,)

    def __post_init__(self) -> None:
        check_ranges(self, scales=SCALES, second_scales=SCALES)
        check_ranges(self, max_keypoints=(1, MANY), edge_threshold=(1e-6, 1e6))
        for name, sizes in (("scales", self.scales), ("second_scales", self.second_scales)):
            if list(sizes) != sorted(set(sizes)) or (name == "scales" and not sizes):
                raise ValueError(f"{name} must be positive and rise, coarse to fine: {sizes}.")
        object.__setattr__(self, "weights", absolute_source(self.weights))


@dataclass(frozen=True, kw_only=True)
class CellOptions:
    """Options of dense features.

    Attributes:
        max_cells: most cells of an image; a larger one is described at a smaller size, its corners
            are found in the whole.
        min_texture: the least response of a corner (Shi and Tomasi, of grey values in [0, 1]);
            cells below are left out.
        dimensions: numbers of a descriptor after projection; null leaves all 512.
    """

    max_cells: int = 30_000
    min_texture: float = 1e-6
    dimensions: int | None = 128

    def __post_init__(self) -> None:
        check_ranges(self, max_cells=(64, MANY), min_texture=(0, 1), dimensions=(1, 512))
