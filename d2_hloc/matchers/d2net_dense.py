"""Dense matches of two images as a matcher of hloc's match_dense."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from d2_hloc.core import config
from d2_hloc.hloc.base_model import BaseModel
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
        images = [data[key] for key in self.required_inputs]
        for key, image in zip(self.required_inputs, images, strict=True):
            if image.ndim != 4 or image.shape[0] != 1:
                raise ValueError(f"{key} must be 1 x 3 x H x W, not {tuple(image.shape)}.")
        found = self.matcher(images[0][0].cpu(), images[1][0].cpu())
        return {
            "keypoints0": found.keypoints0.to(images[0].device),
            "keypoints1": found.keypoints1.to(images[0].device),
            "scores": found.confidences.to(images[0].device),
        }
