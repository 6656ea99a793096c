"""D2-Net as an extractor of hloc's: {"image": 1 x 3 x H x W} -> keypoints, scores, descriptors."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from d2_hloc.features.adapters.d2net import D2NetAdapter
from d2_hloc.hloc.base_model import BaseModel
from d2_hloc.hloc.d2net_conf import d2net_options_of
from d2_hloc.hloc.model_inputs import batch_of_one, single_image
from d2_hloc.network.d2net import D2Net


class D2NetExtractor(BaseModel):
    """D2-Net as hloc loads and calls it.

    `conf` holds D2NetOptions' keys and `multiscale`, or those of hloc's own d2net.

    Attributes:
        detection_noise: deviation of the keypoints, in pixels of the extracted image.
    """

    default_conf: ClassVar[dict[str, Any]] = {"multiscale": False}
    required_inputs: ClassVar[list[str]] = ["image"]
    detection_noise = D2NetAdapter.noise

    def _init(self, conf: dict[str, Any]) -> None:
        self.net = D2Net(d2net_options_of(conf))

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Find the features of an image, RGB in [0, 1].

        Keypoints are 1 x N x 2 (pixels), scores and scales 1 x N, descriptors 1 x 512 x N,
        global_descriptor 1 x 512; where features are found in two pyramids, pyramids 1 x N.

        Raises:
            ValueError: for a batch of other than one image, since N differs between images.
        """
        return batch_of_one(self.net.extract(single_image(data["image"], "The image")))
