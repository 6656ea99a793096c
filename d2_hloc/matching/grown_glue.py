"""The learned matcher's matches, held to those around them, with what lies between them.

The network finds less than half of the keypoints that two images share. Around its matches that
agree, a keypoint's partner is expected within some pixels, and the most similar one there is right
more often than anything that the whole image has to offer (growing).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from d2_hloc.core.cache import BoundedCache
from d2_hloc.core.structs import Features, Matches
from d2_hloc.features.extracted import upright_features
from d2_hloc.features.pyramids import PreparedPyramids, prepare_by_pyramid
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.matching.consistency import local_consistency
from d2_hloc.matching.growing import KeypointField, grow_matches
from d2_hloc.matching.lightglue import LightGlue, Points, partners
from d2_hloc.matching.options import GrowingOptions, MatchingOptions

# Chosen on photographs held back (docs/matcher.md): the network's matches are mostly right, so that
# less tolerance, and nearer candidates, are asked than of neighbours among dense cells.
GROWING = GrowingOptions(min_support=30.0, noise=1.0, radius=6.0)


@dataclass(frozen=True, kw_only=True)
class PlacedPoints:
    """Features of one image, as the network takes them, and where they are in pixels."""

    points: Points
    field: KeypointField

    def __len__(self) -> int:
        return len(self.points)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.points.nbytes + self.field.xy.nbytes + self.field.descriptors.nbytes


class GrownGlue:
    """Our LightGlue by MatchingOptions: prepare() an image once, then call it with two of them."""

    def __init__(self, options: MatchingOptions) -> None:
        """Load the weights.

        Raises:
            WeightsError: if they cannot be used.
        """
        self.options = options
        self.glue = LightGlue(options.weights, options.min_score, options.precision)

    def prepare(
        self,
        keypoints: Float[Tensor, "N 2"],
        descriptors: Float[Tensor, "N D"],
        image_size: tuple[int, int],
        scales: Float[Tensor, " N"] | None = None,
    ) -> PlacedPoints:
        """Prepare the features of an image of size (w, h), in pixels, for all its pairs.

        `scales` are pixels of the image in one of that which keypoints were found in; None: 1.

        Raises:
            ValueError: for descriptors of a width that the weights were not learned from.
        """
        points = self.glue.prepare(keypoints, descriptors, image_size)
        field = KeypointField(
            xy=keypoints.cpu().numpy().astype(np.float64),
            descriptors=F.normalize(points.descriptors[0].cpu().float()),
            area=float(image_size[0] * image_size[1]),
            noise=1.0 if scales is None or not len(scales) else float(scales.median()),
        )
        return PlacedPoints(points=points, field=field)

    def prepare_image(self, features: Features, image_size: tuple[int, int]) -> PreparedPyramids:
        """Prepare each pyramid's features of an image of size (w, h) by themselves.

        Raises:
            ValueError: as prepare().
        """
        return prepare_by_pyramid(
            features,
            lambda part: self.prepare(part.keypoints, part.descriptors, image_size, part.scales),
        )

    def cache(self, file: GuardedFile, capacity: int) -> BoundedCache[str, PreparedPyramids]:
        """Features of a file by image, prepared upright, once while they are in use."""

        def read(name: str) -> PreparedPyramids:
            return self.prepare_image(*upright_features(file, name))

        return BoundedCache(read, capacity)

    @torch.no_grad()
    def __call__(self, image0: PlacedPoints, image1: PlacedPoints) -> Matches:
        """Matches of two images that were prepared, with the network's scores in [0, 1]."""
        if len(image0) == 0 or len(image1) == 0 or self.options.min_support == 0:
            return self.glue(image0.points, image1.points).at_least(self.options.min_matches)
        log_scores = self.glue.log_scores(image0.points, image1.points)
        pairs, scores = partners(log_scores, self.glue.min_score)
        found = Matches(pairs=pairs.cpu(), scores=scores.cpu())
        grown = with_others(
            grow_matches(GROWING, image0.field, image1.field, found).pairs, found.pairs
        )
        grown = grown[self._is_supported(image0.field, image1.field, grown)].to(log_scores.device)
        scores = log_scores[grown[:, 0], grown[:, 1]].exp()
        return Matches(pairs=grown, scores=scores).at_least(self.options.min_matches)

    def _is_supported(self, field0: KeypointField, field1: KeypointField, pairs: Tensor) -> Tensor:
        """Mask (K,) of the matches that have the support that is asked for."""
        if self.options.min_support is None:
            return torch.ones(len(pairs), dtype=torch.bool, device=pairs.device)
        index0, index1 = pairs.numpy().T
        found = local_consistency(
            field0.xy[index0], field1.xy[index1], field1.area, noise=field1.noise
        )
        return torch.from_numpy(found.support >= self.options.min_support)


def with_others(grown: Int[Tensor, "K 2"], found: Int[Tensor, "M 2"]) -> Int[Tensor, "L 2"]:
    """Grown matches, and those found whose keypoints they leave free.

    Where the images are hard, what agrees may be wrong, and the right matches be alone.
    """
    is_free = ~(torch.isin(found[:, 0], grown[:, 0]) | torch.isin(found[:, 1], grown[:, 1]))
    joined = torch.cat([grown, found[is_free]])
    return joined[joined[:, 0].argsort()]
