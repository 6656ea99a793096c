"""Dense features of two levels, as of DenseSfM and InLoc's Dense PE: conv4_3, and conv3_3 within.

Sattler et al., "Benchmarking 6DoF Outdoor Visual Localization in Changing Conditions", CVPR 2018,
and Taira et al., "InLoc", CVPR 2018, which starts at conv5: our weights end before it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_hloc.core.structs import Features
from d2_hloc.features.adapters.d2net_dense import DenseAdapter
from d2_hloc.features.options import FeatureOptions
from d2_hloc.features.projection import bundled_projection
from d2_hloc.network.cells import describe_parts
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.options import PARTS


class TwoLevels(nn.Module):
    """Cells of conv3_3 as features, each with the descriptor of its cell of conv4_3 before its own.

    Matching tells the two apart (matching.hierarchical).
    """

    def __init__(self, options: FeatureOptions) -> None:
        """Load the weights that the options name.

        Raises:
            WeightsError: if there are no such weights.
        """
        super().__init__()
        self.backbone = D2Net(options.d2net).backbone
        self._options = options.cells
        self._projection = bundled_projection(options.cells.dimensions)

    def forward(self, images: Tensor) -> list[Features]:
        """Features of images (B, 3, H, W) of one size, RGB in [0, 1]."""
        return [self.extract(image) for image in images]

    def extract(self, image: Tensor) -> Features:
        """Features of one image (3, H, W)."""
        found, cells = describe_parts(self.backbone, torch.as_tensor(image), self._options)
        if self._projection is not None:
            cells = self._projection.apply(cells)
        joined = torch.cat([cells.repeat_interleave(PARTS, dim=0), found.descriptors], dim=1)
        return replace(found, descriptors=F.normalize(joined))


class TwoLevelAdapter(DenseAdapter):
    """Cells of two levels; its download() is D2-Net's."""

    noise = 1.5  # pixels: the centre of a cell of 4 x 4

    def create(self, options: FeatureOptions) -> TwoLevels:  # pyright: ignore
        """The network."""
        return TwoLevels(options)

    def configuration(self, options: FeatureOptions) -> dict[str, Any]:
        """Options of cells, and the digests of weights and projection."""
        values = super().configuration(options)
        del values["d2net"]["max_keypoints"]
        return values


ADAPTER = TwoLevelAdapter()
