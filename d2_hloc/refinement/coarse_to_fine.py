"""Matches of two images from coarse to fine, one pure function a level.

conv4_3 (8 x 8 pixels a cell): mutual nearest neighbours, grown where they agree. conv3_3 (4 x 4):
a search about each. Then each match is split into those of its four cells of 4 x 4 pixels, and
conv2_2 (2 x 2) and conv1_2 (a pixel) are searched as in refinement. Windows halve: 8, 4 and 2
pixels. After conv3 and after conv1, only matches that agree with those around them stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from d2_hloc.core.pixels import cells_to_pixels, pixels_to_cells
from d2_hloc.core.ranges import MANY, check_ranges
from d2_hloc.core.structs import Matches
from d2_hloc.matching.consistency import local_consistency
from d2_hloc.matching.grown import PlacedDescriptors, match_grown
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.refinement.affinities import inverse_2x2, local_affinities
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.refinement.patches import (
    Outcome,
    Refined,
    ShallowMaps,
    correlate,
    find_peaks,
    in_chunks,
    refine_pairs,
    square_patches,
    warped_patches,
)

DEEP_STRIDE = 4  # pixels a cell of conv3_3


@dataclass(frozen=True, kw_only=True)
class CoarseToFineOptions:
    """Options of the levels; sizes of patches and windows in cells of their level.

    `agreement`: the least support of a match by those around it (consistency.local_consistency), if
    chance puts these anywhere in the window, after conv3 and after conv1. `noise`: how far they may
    differ, in units of 4 pixels, likewise. `split`: into how many parts a side a cell is.
    """

    coarse: MatchingOptions = field(default_factory=lambda: MatchingOptions(matcher="grown"))
    deep_patch: int = 2
    deep_window: int = 3  # the best cell is not at its border: 8 pixels
    split: int = 2
    fine: RefinementOptions = field(
        default_factory=lambda: RefinementOptions(enabled=True, coarse_window=3)
    )
    noise: tuple[float, ...] = (0.75, 0.25)
    agreement: tuple[float, ...] = (6.0, 10.0)
    neighbours: int = 16

    def __post_init__(self) -> None:
        check_ranges(
            self,
            deep_patch=(1, 50),
            deep_window=(1, 50),
            split=(1, 8),
            noise=(0.01, 100),
            agreement=(0, MANY),
            neighbours=(3, 1000),
        )


@dataclass(frozen=True, kw_only=True)
class ImageStages:
    """One image at all levels."""

    cells: PlacedDescriptors  # conv4_3
    deep: UInt8[Tensor, "h w 256"]  # conv3_3, as ShallowMaps
    shallow: ShallowMaps
    corners: Int[Tensor, "N s 2"]  # of the parts of each cell, the strongest pixel (x, y)

    @property
    def nbytes(self) -> int:
        return self.cells.nbytes + self.deep.nbytes + self.shallow.nbytes + self.corners.nbytes


@dataclass(frozen=True, kw_only=True)
class Places:
    """Matched places of two images, in pixels, with what is known about each."""

    xy0: Float[Tensor, "K 2"]
    xy1: Float[Tensor, "K 2"]
    cells0: Int[Tensor, " K"]  # keypoint of image 0 that each comes from
    support: Float[Tensor, " K"]

    def __len__(self) -> int:
        return len(self.xy0)

    def of(self, keep: Tensor) -> Places:
        """Pick some, by mask or index."""
        return Places(
            xy0=self.xy0[keep],
            xy1=self.xy1[keep],
            cells0=self.cells0[keep],
            support=self.support[keep],
        )


def match_stages(options: CoarseToFineOptions, image0: ImageStages, image1: ImageStages) -> Places:
    """Match two images through all levels. There may be none."""
    found = match_cells(options, image0, image1)
    for level in (match_conv3, split_cells, match_shallow):
        if len(found) <= options.neighbours:
            return found.of(torch.zeros_like(found.support, dtype=torch.bool))
        found = level(options, image0, image1, found)
    return found


def match_cells(options: CoarseToFineOptions, image0: ImageStages, image1: ImageStages) -> Places:
    """conv4: cells that match, on their corners."""
    matches: Matches = match_grown(options.coarse, image0.cells, image1.cells)
    device = image0.deep.device
    index0, index1 = matches.pairs.to(device).unbind(dim=1)
    xy0, xy1 = (torch.from_numpy(i.cells.field.xy).float().to(device) for i in (image0, image1))
    support = matches.scores.to(device)
    return Places(xy0=xy0[index0], xy1=xy1[index1], cells0=index0, support=support)


def match_conv3(
    options: CoarseToFineOptions, image0: ImageStages, image1: ImageStages, found: Places
) -> Places:
    """conv3: each match is moved to where its patch is found, 8 pixels or less away."""
    affinities = local_affinities(found.xy0, found.xy1, found.xy0, options.neighbours)

    def search(xy0: Tensor, xy1: Tensor, inverse: Tensor) -> Refined:
        patch, window = options.deep_patch, options.deep_window
        template = warped_patches(image0.deep, pixels_to_cells(xy0, DEEP_STRIDE), inverse, patch)
        centres = pixels_to_cells(xy1, DEEP_STRIDE).round()
        cells = square_patches(image1.deep, centres, patch + window)
        peaks = find_peaks(correlate(template, cells, patch, window), 0.0)
        return Refined(
            xy=cells_to_pixels(centres + peaks.steps, DEEP_STRIDE),
            outcomes=peaks.outcomes,
            deviations=DEEP_STRIDE * peaks.deviations,
        )

    moved = in_chunks(search, found.xy0, found.xy1, inverse_2x2(affinities))
    window = (2 * options.deep_window * DEEP_STRIDE) ** 2
    return _that_agree(options, found, moved, window, 0)


def split_cells(
    options: CoarseToFineOptions, image0: ImageStages, image1: ImageStages, found: Places
) -> Places:
    """Each match becomes those of its parts, where the matches around it let them expect."""
    affinities = local_affinities(found.xy0, found.xy1, found.xy0, options.neighbours)
    corners = image0.corners[found.cells0].float()
    offsets = corners - found.xy0[:, None]
    expected = found.xy1[:, None] + offsets @ affinities.transpose(1, 2)
    parts = corners.shape[1]
    return Places(
        xy0=corners.flatten(0, 1),
        xy1=expected.flatten(0, 1),
        cells0=found.cells0.repeat_interleave(parts),
        support=found.support.repeat_interleave(parts),
    )


def match_shallow(
    options: CoarseToFineOptions, image0: ImageStages, image1: ImageStages, found: Places
) -> Places:
    """conv2 and conv1: the sub-pixel search of refinement."""
    affinities = local_affinities(found.xy0, found.xy1, found.xy0, options.fine.neighbours)
    maps = image0.shallow, image1.shallow
    moved = refine_pairs(options.fine, *maps, found.xy0, found.xy1, affinities)
    window = (4 * options.fine.coarse_window) ** 2
    return _that_agree(options, found, moved, window, 1)


def _that_agree(
    options: CoarseToFineOptions, found: Places, moved: Refined, window: float, k: int
) -> Places:
    """The matches that were moved and agree with those around them.

    `window` is in square pixels, `k` says which of the two thresholds apply.
    """
    is_moved = moved.outcomes == Outcome.MOVED
    xy0, xy1 = found.xy0[is_moved], moved.xy[is_moved]
    places = xy0.cpu().numpy().astype(np.float64), xy1.cpu().numpy().astype(np.float64)
    noise, neighbours = options.noise[k], options.neighbours
    support = local_consistency(*places, window, neighbours=neighbours, noise=noise).support
    kept = Places(
        xy0=xy0,
        xy1=xy1,
        cells0=found.cells0[is_moved],
        support=torch.from_numpy(support).float().to(xy0.device),
    )
    return kept.of(kept.support > options.agreement[k])
