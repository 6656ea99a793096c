"""Hierarchical matching of dense features: conv4's cells first, and within them those of conv3.

As in DenseSfM (Sattler et al., CVPR 2018) and InLoc's Dense PE (Taira et al., CVPR 2018): coarse
cells that are mutual nearest neighbours say where fine ones are compared. Features are densesfm's:
keypoints are the fine cells, the four of a coarse one after each other, and a descriptor is that of
the coarse cell and then the fine cell's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.cache import BoundedCache
from d2_hloc.core.devices import chosen_device
from d2_hloc.core.structs import Matches
from d2_hloc.files import features_h5
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.matching.nearest import match_descriptors
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.matching.prepared import PreparedDescriptors, prepare_descriptors
from d2_hloc.network.options import PART_DIMENSION, PARTS

CHUNK = 4096  # matched cells whose parts are compared at once


@dataclass(frozen=True, kw_only=True)
class LevelDescriptors:
    """Descriptors of the two levels of an image."""

    cells: PreparedDescriptors  # (M, D)
    parts: Float[Tensor, "M 4 256"]

    def __len__(self) -> int:
        """The number of keypoints, which are the parts."""
        return PARTS * len(self.parts)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.cells.nbytes + self.parts.nbytes


def split_levels(descriptors: Float[Tensor, "N D"]) -> LevelDescriptors:
    """Tell the levels apart.

    Raises:
        ValueError: if the descriptors are not of two levels.
    """
    count, width = descriptors.shape
    if count % PARTS or width <= PART_DIMENSION:
        raise ValueError(
            f"{count} descriptors of {width} numbers are not of two levels, which 'hierarchical' "
            "matches: extract densesfm, or match by 'nearest'."
        )
    found = descriptors.float()
    cells = F.normalize(found[::PARTS, :-PART_DIMENSION])
    parts = F.normalize(found[:, -PART_DIMENSION:]).view(-1, PARTS, PART_DIMENSION)
    return LevelDescriptors(cells=prepare_descriptors(cells), parts=parts)


def level_cache(file: GuardedFile, capacity: int) -> BoundedCache[str, LevelDescriptors]:
    """Descriptors of a file by image, read and split once while they are in use."""

    def read(name: str) -> LevelDescriptors:
        try:
            return split_levels(features_h5.descriptors_of(file, name).to(chosen_device()))
        except ValueError as error:
            raise ValueError(f"{file.filename}: {name}: {error}") from error

    return BoundedCache(read, capacity)


def match_hierarchical(
    options: MatchingOptions, image0: LevelDescriptors, image1: LevelDescriptors
) -> Matches:
    """Match cells, and within each two that match, the parts that are mutual nearest neighbours."""
    cells0, cells1 = match_descriptors(image0.cells, image1.cells, options).pairs.unbind(dim=1)
    pairs, scores = [cells0.new_empty(0, 2)], [image0.parts.new_empty(0)]
    every = torch.arange(PARTS, device=cells0.device)
    for rows0, rows1 in zip(cells0.split(CHUNK), cells1.split(CHUNK), strict=True):
        cosines = torch.bmm(image0.parts[rows0], image1.parts[rows1].transpose(1, 2))
        best, forward = cosines.max(dim=2)
        backward = cosines.argmax(dim=1)
        is_mutual = backward.gather(1, forward) == every
        parts0 = PARTS * rows0[:, None] + every
        parts1 = PARTS * rows1[:, None] + forward
        pairs.append(torch.stack([parts0[is_mutual], parts1[is_mutual]], dim=1))
        scores.append((best[is_mutual] + 1) / 2)
    found = Matches(pairs=torch.cat(pairs), scores=torch.cat(scores).clamp(0, 1))
    return found.at_least(options.min_matches)
