"""Keypoints of matched images, moved by shallow maps: pair by pair, or query by query."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2_hloc.features.extracted import read_orientations
from d2_hloc.matching.pairs import Pair
from d2_hloc.refinement.affinities import local_affinities
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.refinement.patches import Outcome, Refined, refine_pairs
from d2_hloc.refinement.shallow_maps import CACHE_BYTES, ImageMaps, MapReader, resize_max_of

PAIR_CACHE_BYTES = 512 << 20  # of maps, for pairs that come image by image


def refine_matches(
    options: RefinementOptions,
    image0: ImageMaps,
    image1: ImageMaps,
    xy0: Tensor,
    xy1: Tensor,
    around: tuple[Tensor, Tensor],
) -> Refined:
    """Move `xy1` to where image 0's `xy0` are seen; `around` are matches. Stored pixels.

    What is given and what comes back is on the processor; the search is on the maps' device.
    """
    xy0, from0 = image0.to_maps(xy0), image0.to_maps(around[0])
    moved, to1 = image1.to_maps(xy1), image1.to_maps(around[1])
    affinities = local_affinities(from0, to1, xy0, options.neighbours)
    found = refine_pairs(options, image0.maps, image1.maps, xy0, moved, affinities)
    outcomes = found.outcomes.cpu()
    is_moved = (outcomes == Outcome.MOVED)[:, None]
    return Refined(
        xy=torch.where(is_moved, image1.to_original(found.xy), xy1),
        outcomes=outcomes,
        deviations=found.deviations.cpu() / float(image1.scale.mean()),
    )


@dataclass(frozen=True, kw_only=True)
class FoundPlaces:
    """Places in a query, in stored pixels, where points of a model were searched for."""

    xy: np.ndarray  # (K, 2)
    is_found: np.ndarray  # (K,)
    deviations: np.ndarray  # (K,), along an axis; NaN of those that were not found

    @classmethod
    def of(cls, refined: Refined) -> FoundPlaces:
        """The same as arrays."""
        is_found = (refined.outcomes == Outcome.MOVED).numpy()
        deviations = refined.deviations.double().numpy()
        return cls(xy=refined.xy.numpy(), is_found=is_found, deviations=deviations)


class PairRefiner:
    """Moves the second keypoint of each match of a pair; the pair's matches are its affinities'."""

    def __init__(
        self,
        options: RefinementOptions,
        images: Path,
        resize_max: int | None,
        orientations: Mapping[str, int] | None = None,
    ) -> None:
        self._options = options
        reader = MapReader(resize_max, options.precision)
        self._maps = reader.of(images, PAIR_CACHE_BYTES, 2, orientations)

    def by(self, options: RefinementOptions) -> PairRefiner:
        """Another one, of the same images' maps."""
        other = copy(self)
        other._options = options
        return other

    def __call__(
        self, pair: Pair, xy0: np.ndarray, xy1: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Matched keypoints (K, 2) of two images, stored pixels -> the same, refined."""
        moved, _ = self.search(pair, xy0, xy1, (xy0, xy1))
        return xy0, moved

    def search(
        self,
        pair: Pair,
        xy0: np.ndarray,
        xy1: np.ndarray,
        around: tuple[np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find in the second image, near `xy1`, what the first one shows at `xy0` (K, 2).

        `around` are matches of the two images. Returns places (K, 2), stored pixels, and a mask
        (K,) of those that were found.
        """
        both = torch.from_numpy(xy0).float(), torch.from_numpy(xy1).float()
        matches = torch.from_numpy(around[0]).float(), torch.from_numpy(around[1]).float()
        maps = self._maps[pair[0]], self._maps[pair[1]]
        found = refine_matches(self._options, *maps, *both, matches)
        return found.xy.numpy(), (found.outcomes == Outcome.MOVED).numpy()


@dataclass(frozen=True)
class FeaturedImages:
    """A folder of images, and the file of their features."""

    folder: Path
    features: Path


class QueryRefiner:
    """Moves keypoints of queries to where 3D points, as images of the model show them, are seen."""

    def __init__(
        self, options: RefinementOptions, images: FeaturedImages, queries: FeaturedImages
    ) -> None:
        """Read images as the model's features were extracted; the queries' were in the same way."""
        reader = MapReader(resize_max_of(images.features), options.precision)
        self._options = options
        self._images = reader.of(images.folder, CACHE_BYTES, 1, read_orientations(images.features))
        self._queries = reader.of(
            queries.folder, PAIR_CACHE_BYTES, 1, read_orientations(queries.features)
        )

    def __call__(
        self, query: str, image: str, xy: np.ndarray, projected: np.ndarray
    ) -> FoundPlaces:
        """Find a query's keypoints (K, 2) again, from where the model's image has their points."""
        both = torch.from_numpy(projected).float(), torch.from_numpy(xy)
        maps = self._images[image], self._queries[query]
        return FoundPlaces.of(refine_matches(self._options, *maps, *both, around=both))
