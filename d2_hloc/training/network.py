"""The network in training: a frozen trunk, and the last layers that learn."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2_hloc.core.devices import sent
from d2_hloc.network.backbone import CONV4, Backbone
from d2_hloc.network.weights.files import load_weights

TrainedFrom = Literal["conv4_1", "conv4_2", "conv4_3"]
Precision = Literal["float32", "bfloat16", "float16"]
AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Network(nn.Module):
    """The training form, cut where learning begins."""

    def __init__(self, source: str, trained_from: TrainedFrom, precision: Precision) -> None:
        """`source` is what load_weights() takes; layers from `trained_from` on learn.

        Raises:
            WeightsError: if the weights cannot be used.
        """
        super().__init__()
        self.backbone = Backbone()
        self.backbone.load_state_dict(load_weights(source))
        self.source, self.trained_from, self.precision = source, trained_from, precision
        self.backbone.requires_grad_(False)
        for name in CONV4[CONV4.index(trained_from) :]:
            self.backbone.get_submodule(name).requires_grad_(True)

    def learned(self) -> list[nn.Parameter]:
        """The parameters that learn."""
        return [p for p in self.backbone.parameters() if p.requires_grad]

    @torch.no_grad()
    def trunk(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """Activations of the frozen layers; nothing that is learned changes them."""
        with self._autocast():
            return self.backbone.training_trunk(sent(images, self.device), self.trained_from)

    def forward(self, activations: Float[Tensor, "B D h w"]) -> Float[Tensor, "B 512 h w"]:
        """The trunk's activations -> maps before their ReLU, in float32."""
        with self._autocast():
            maps = self.backbone.training_head(
                sent(activations, self.device).contiguous(memory_format=torch.channels_last),
                self.trained_from,
            )
        return maps.float()

    @property
    def device(self) -> torch.device:
        """Device of the layers."""
        return self.backbone.conv4_3.weight.device

    def _autocast(self) -> torch.autocast:
        dtype = AUTOCAST.get(self.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)
