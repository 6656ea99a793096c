"""A matcher that matches nothing."""

import torch

from ..utils.base_model import BaseModel


class Nothing(BaseModel):
    def _init(self, conf): ...

    def _forward(self, data):
        count = data["descriptors0"].shape[2]
        return {"matches0": torch.full((1, count), -1), "matching_scores0": torch.zeros(1, count)}
