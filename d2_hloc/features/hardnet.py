"""HardNet on affine frames, from kornia: Key.Net or Hessian detections, AffNet shapes."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.structs import Features
from d2_hloc.features import pretrained
from d2_hloc.features.options import FeatureOptions

NOISE = pretrained.NOISE


class HardNetFeatures(pretrained.Ready):
    """Detector, affine shape, orientation and descriptor, as kornia puts them together."""

    def __init__(self, feature: str, max_keypoints: int | None) -> None:
        super().__init__()
        import kornia.feature

        kinds = {
            "keynet-affnet-hardnet": kornia.feature.KeyNetAffNetHardNet,
            "hesaffnet-hardnet": kornia.feature.HesAffNetHardNet,
        }
        count = {} if max_keypoints is None else {"num_features": max_keypoints}
        self.model = kinds[feature](**count).eval()

    def find(self, image: Float[Tensor, "3 H W"]) -> Features:
        """Of the frames, their centres; the slots that no detection filled are all zero."""
        from kornia.color import rgb_to_grayscale
        from kornia.feature import get_laf_center, get_laf_scale

        frames, responses, descriptors = self.model(rgb_to_grayscale(image[None]))
        is_filled = (frames[0] != 0).flatten(1).any(dim=1)
        return Features(
            keypoints=get_laf_center(frames)[0][is_filled],
            scores=responses[0][is_filled],
            descriptors=descriptors[0][is_filled],
            scales=get_laf_scale(frames)[0].flatten()[is_filled],
        )


def create(options: FeatureOptions) -> HardNetFeatures:
    """The networks; their weights have to be there."""
    pretrained.digests(options.feature, files(options.feature))
    return HardNetFeatures(options.feature, options.kornia_keypoints)


def configuration(options: FeatureOptions) -> dict[str, Any]:
    """The most, and the weights' digests."""
    return pretrained.configuration(options, files(options.feature))


def download(options: FeatureOptions) -> None:
    """Fetch the weights that are not there."""
    pretrained.fetch(files(options.feature))


def files(feature: str) -> list[pretrained.CachedWeights]:
    """The weights of each network."""
    from kornia.feature import affine_shape, hardnet, keynet, orientation

    urls = [affine_shape.urls["affnet"], hardnet.urls["liberty_aug"]]
    if feature == "keynet-affnet-hardnet":
        urls += [keynet.KeyNet_URL, orientation.urls["orinet"]]
    return [pretrained.published(entry) for entry in urls]
