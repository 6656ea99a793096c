"""Dense features of D2-Net's network as an extractor of hloc's."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from d2_hloc.core import config
from d2_hloc.features.adapters.d2net_dense import DenseAdapter, DenseD2Net
from d2_hloc.features.options import FeatureOptions
from d2_hloc.hloc.base_model import BaseModel
from d2_hloc.hloc.model_inputs import batch_of_one, single_image


class D2NetDenseExtractor(BaseModel):
    """`conf` holds the keys `d2net` and `cells` of FeatureOptions.

    Attributes:
        detection_noise: deviation of the keypoints, in pixels of the extracted image.
    """

    default_conf: ClassVar[dict[str, Any]] = {}
    required_inputs: ClassVar[list[str]] = ["image"]
    detection_noise = DenseAdapter.noise

    def _init(self, conf: dict[str, Any]) -> None:
        values = {key: value for key, value in conf.items() if key != "name"}
        self.net = DenseD2Net(config.from_dict(FeatureOptions, values, "d2net_dense"))

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Find the cells of an image, RGB in [0, 1].

        Keypoints are 1 x N x 2 (pixels), scores and scales 1 x N, descriptors 1 x D x N.

        Raises:
            ValueError: for a batch of other than one image, since N differs between images.
        """
        return batch_of_one(self.net.extract(single_image(data["image"], "The image")))
