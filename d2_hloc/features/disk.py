"""DISK (Tyszkiewicz et al., NeurIPS 2020) from kornia, with the weights trained on depth."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.structs import Features
from d2_hloc.features import pretrained
from d2_hloc.features.options import FeatureOptions

NOISE = pretrained.NOISE
CHECKPOINT = "depth"


class DiskFeatures(pretrained.Ready):
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


def create(options: FeatureOptions) -> DiskFeatures:
    """The network; its weights have to be there."""
    pretrained.digests(options.feature, files())
    return DiskFeatures(options.kornia_keypoints)


def configuration(options: FeatureOptions) -> dict[str, Any]:
    """The most, and the weights' digest."""
    return pretrained.configuration(options, files())


def download(options: FeatureOptions) -> None:
    """Fetch the weights if they are not there."""
    pretrained.fetch(files())


def files() -> list[pretrained.CachedWeights]:
    """The network's weights."""
    from kornia.feature.disk import disk

    return [pretrained.published(disk.urls[CHECKPOINT])]
