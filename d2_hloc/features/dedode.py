"""DeDoDe (Edstedt et al., 3DV 2024) from kornia: the second detector, the smaller descriptor."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.pixels import from_colmap
from d2_hloc.core.structs import Features
from d2_hloc.features import pretrained
from d2_hloc.features.options import FeatureOptions

NOISE = pretrained.NOISE
DETECTOR, DESCRIPTOR = "L-C4-v2", "B-upright"


class DedodeFeatures(pretrained.Ready):
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


def create(options: FeatureOptions) -> DedodeFeatures:
    """The networks; their weights have to be there."""
    pretrained.digests(options.feature, files())
    return DedodeFeatures(options.kornia_keypoints)


def configuration(options: FeatureOptions) -> dict[str, Any]:
    """The most, and the weights' digests."""
    return pretrained.configuration(options, files())


def download(options: FeatureOptions) -> None:
    """Fetch the weights that are not there."""
    pretrained.fetch(files())


def files() -> list[pretrained.CachedWeights]:
    """The weights of the detector and of the descriptor."""
    from kornia.feature.dedode import dedode

    urls = [dedode.urls["detector"][DETECTOR], dedode.urls["descriptor"][DESCRIPTOR]]
    return [pretrained.published(entry) for entry in urls]
