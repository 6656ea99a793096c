"""HardNet on affine frames, from kornia: Key.Net or Hessian detections, AffNet shapes."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.structs import Features
from d2_hloc.features.options import FeatureOptions
from d2_hloc.features.pretrained import CachedWeights, PretrainedAdapter, PretrainedExtractor


class HardNetExtractor(PretrainedExtractor):
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
        """Centres of the affine frames; the slots that no detection filled are all zero."""
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


class HardNetAdapter(PretrainedAdapter):
    """Two features that differ in their detector, and in whether an orientation is estimated."""

    def make(self, options: FeatureOptions) -> HardNetExtractor:
        """The networks of one of them."""
        return HardNetExtractor(options.feature, options.kornia_keypoints)

    def weights(self, feature: str) -> list[CachedWeights]:
        """The weights of each network."""
        from kornia.feature import affine_shape, hardnet, keynet, orientation

        urls = [affine_shape.urls["affnet"], hardnet.urls["liberty_aug"]]
        if feature == "keynet-affnet-hardnet":
            urls += [keynet.KeyNet_URL, orientation.urls["orinet"]]
        return [CachedWeights.published(entry) for entry in urls]


ADAPTER = HardNetAdapter()
