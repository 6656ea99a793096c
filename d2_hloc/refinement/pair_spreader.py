"""Matches of a pair, refined, held to those around them, and spread; no geometry is asked."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from d2_hloc.core.images import enlargement
from d2_hloc.files import features_h5
from d2_hloc.matching.consistency import local_consistency
from d2_hloc.matching.pairs import Pair
from d2_hloc.refinement.matches import PairRefiner
from d2_hloc.refinement.options import RefinementOptions, SpreadingOptions
from d2_hloc.refinement.shallow_maps import resize_max_of
from d2_hloc.refinement.spreading import PlacedMatches, spread_matches

NOISE = 0.25  # of the tolerance of local consistency, 4 pixels: a refined match is off by less
NEIGHBOURS = 16  # matches that a refined one is held to
NEAR = RefinementOptions()  # a place that neighbours lead to is nearer than a keypoint's


class PairSpreader:
    """Moves the second keypoint of each match of a pair, and leaves those that agree, and more."""

    def __init__(
        self,
        options: SpreadingOptions,
        refinement: RefinementOptions,
        refiner: PairRefiner,
        features: Path,
    ) -> None:
        """Read keypoints from `features`, which the matches are of."""
        self._options, self._refiner, self._features = options, refiner, features
        self._resize_max = resize_max_of(features)
        self._window = refinement.searched

    def __call__(
        self, pair: Pair, xy0: np.ndarray, xy1: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Matched keypoints (K, 2) of two images, stored pixels -> fewer or more, refined."""
        with features_h5.open_h5(self._features) as file:
            keypoints = tuple(features_h5.keypoints_of(file, n).astype(float) for n in pair)
            sizes = [features_h5.image_size_of(file, n) for n in pair]
        scale = enlargement(sizes[1], self._resize_max)
        if len(xy0):
            places, is_moved = self._refiner.search(pair, xy0, xy1, (xy0, xy1))
            index = [
                KDTree(among).query(xy)[1] for among, xy in zip(keypoints, (xy0, xy1), strict=True)
            ]
            found = PlacedMatches(pairs=np.stack(index, axis=1), xy0=xy0, xy1=places)
            found = found.of(is_moved)
            found = found.of(self._agree(found, scale))
            for _ in range(self._options.steps):
                found = self._spread(pair, keypoints, found, scale)
            xy0, xy1 = found.xy0, found.xy1
        return xy0, xy1

    def _spread(
        self,
        pair: Pair,
        keypoints: tuple[np.ndarray, ...],
        known: PlacedMatches,
        scale: float,
    ) -> PlacedMatches:
        """Known matches, and those around that agree with them."""
        search = partial(self._refiner.by(NEAR).search, pair)
        given = (keypoints[0], keypoints[1]), known, search
        more = spread_matches(self._options, *given, lambda a, b: np.ones(len(a), bool), scale)
        both = known.joined(more)
        keep = self._agree(both, scale)
        keep[: len(known)] = True
        return both.of(keep)

    def _agree(self, found: PlacedMatches, scale: float) -> np.ndarray:
        """Mask of the matches that those around them support.

        A search moves a wrong match anywhere in its window; support is held to that chance.
        """
        area = (self._window * scale) ** 2
        consistent = local_consistency(
            found.xy0, found.xy1, area, neighbours=NEIGHBOURS, noise=NOISE * scale
        )
        return consistent.support > self._options.support
