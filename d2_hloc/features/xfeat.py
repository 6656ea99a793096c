"""XFeat (Potje et al., CVPR 2024) from kornia, its sparse form."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.pixels import rescale
from d2_hloc.core.structs import Features
from d2_hloc.features import pretrained
from d2_hloc.features.options import FeatureOptions

NOISE = pretrained.NOISE
MULTIPLE = 32  # pixels; the network resizes an image down to such edges


class XFeatFeatures(pretrained.Ready):
    """The network. It scales its pixels back about the corner; here, about pixel centres."""

    def __init__(self, max_keypoints: int | None) -> None:
        super().__init__()
        count = {} if max_keypoints is None else {"top_k": max_keypoints}
        self.model = network().from_pretrained(**count).eval()

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


def create(options: FeatureOptions) -> XFeatFeatures:
    """The network; its weights have to be there."""
    pretrained.digests(options.feature, files())
    return XFeatFeatures(options.kornia_keypoints)


def configuration(options: FeatureOptions) -> dict[str, Any]:
    """The most, and the weights' digest."""
    return pretrained.configuration(options, files())


def download(options: FeatureOptions) -> None:
    """Fetch the weights if they are not there."""
    pretrained.fetch(files())


def files() -> list[pretrained.CachedWeights]:
    """The network's weights."""
    return [pretrained.published(network().weights_url)]


def network() -> Any:
    """kornia's class.

    Raises:
        ValueError: where the installed kornia is older than its XFeat.
    """
    import kornia

    if not hasattr(kornia.feature, "XFeat"):
        raise ValueError(f"kornia {kornia.__version__} has no XFeat: install a newer kornia.")
    return kornia.feature.XFeat
