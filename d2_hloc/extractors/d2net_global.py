"""D2-Net's features pooled over the image, for hloc's retrieval: image -> global_descriptor."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from d2_hloc.hloc.base_model import BaseModel
from d2_hloc.hloc.d2net_conf import d2net_options_of
from d2_hloc.hloc.model_inputs import single_image
from d2_hloc.network.d2net import D2Net


class D2NetGlobalExtractor(BaseModel):
    """The descriptor of a whole image, as hloc loads and calls it; `conf` is D2NetExtractor's."""

    default_conf: ClassVar[dict[str, Any]] = {"multiscale": False}
    required_inputs: ClassVar[list[str]] = ["image"]

    def _init(self, conf: dict[str, Any]) -> None:
        self.net = D2Net(d2net_options_of(conf))

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pool the features of an image, RGB in [0, 1]; global_descriptor is 1 x 512."""
        found = self.net.extract(single_image(data["image"], "The image")).global_descriptor
        if found is None:
            raise ValueError("The image has no global descriptor.")
        return {"global_descriptor": found.float()[None]}
