"""Dense matches of two images as a matcher of hloc's match_dense."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from d2_hloc.core import config
from d2_hloc.hloc.base_model import BaseModel
from d2_hloc.hloc.model_inputs import single_image
from d2_hloc.refinement.image_matches import ImageMatcher, ImageMatchingOptions


class D2NetDense(BaseModel):
    """`conf` holds ImageMatchingOptions' keys; hloc itself resizes images."""

    default_conf: ClassVar[dict[str, Any]] = {"resize_max": None}
    required_inputs: ClassVar[list[str]] = ["image0", "image1"]

    def _init(self, conf: dict[str, Any]) -> None:
        values = {key: value for key, value in conf.items() if key != "name"}
        self.matcher = ImageMatcher(config.from_dict(ImageMatchingOptions, values, "d2net_dense"))

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Images 1 x 3 x H x W, RGB in [0, 1] -> keypoints0, keypoints1 K x 2, scores K.

        Raises:
            ValueError: for a batch of other than one pair.
        """
        image0, image1 = (single_image(data[key], key) for key in self.required_inputs)
        found = self.matcher(image0, image1)
        return {
            "keypoints0": found.keypoints0.to(image0.device),
            "keypoints1": found.keypoints1.to(image0.device),
            "scores": found.confidences.to(image0.device),
        }
