"""DeDoDe (Edstedt et al., 3DV 2024) from kornia: the second detector, the smaller descriptor."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.pixels import from_colmap
from d2_hloc.core.structs import Features
from d2_hloc.features.options import FeatureOptions
from d2_hloc.features.pretrained import CachedWeights, PretrainedAdapter, PretrainedExtractor

DETECTOR, DESCRIPTOR = "L-C4-v2", "B-upright"


class DedodeExtractor(PretrainedExtractor):
    """The networks, in single precision everywhere. Keypoints' pixel centres are half-integers."""

    def __init__(self, max_keypoints: int | None) -> None:
        super().__init__()
        from kornia.feature import DeDoDe

        self.model = DeDoDe.from_pretrained(DETECTOR, DESCRIPTOR, amp_dtype=torch.float32).eval()
        self.count = {} if max_keypoints is None else {"n": max_keypoints}

    def find(self, image: Float[Tensor, "3 H W"]) -> Features:
        """The best of the detector's map; it has no threshold."""
        keypoints, scores, descriptors = self.model(image[None], **self.count)
        return Features(
            keypoints=from_colmap(keypoints[0]),
            scores=scores[0],
            descriptors=descriptors[0],
            scales=torch.ones_like(scores[0]),
        )


class DedodeAdapter(PretrainedAdapter):
    """DeDoDe; it has a detector and a descriptor."""

    def make(self, options: FeatureOptions) -> DedodeExtractor:
        """Both networks."""
        return DedodeExtractor(options.kornia_keypoints)

    def weights(self, feature: str) -> list[CachedWeights]:
        """The weights of the detector and of the descriptor."""
        from kornia.feature.dedode import dedode

        urls = [dedode.urls["detector"][DETECTOR], dedode.urls["descriptor"][DESCRIPTOR]]
        return [CachedWeights.published(entry) for entry in urls]


ADAPTER = DedodeAdapter()
