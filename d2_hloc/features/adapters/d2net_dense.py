"""Dense features of D2-Net's network: all cells of its training form that have texture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from d2_hloc.core import config
from d2_hloc.core.structs import Features
from d2_hloc.features.adapters.d2net import D2NetAdapter
from d2_hloc.features.options import BUNDLED, FeatureOptions
from d2_hloc.features.projection import bundled_projection
from d2_hloc.files.provenance import file_sha256
from d2_hloc.network.cells import describe_cells
from d2_hloc.network.d2net import D2Net


class DenseD2Net(nn.Module):
    """Cells of images as features, their descriptors projected."""

    def __init__(self, options: FeatureOptions) -> None:
        """Load the weights that the options name.

        Raises:
            WeightsError: if there are no such weights.
        """
        super().__init__()
        self.backbone = D2Net(options.d2net).backbone
        self._options, self._most = options.cells, options.d2net.max_keypoints
        self._projection = bundled_projection(options.cells.dimensions)

    def forward(self, images: Tensor) -> list[Features]:
        """Features of images (B, 3, H, W) of one size, RGB in [0, 1]."""
        return [self.extract(image) for image in images]

    def extract(self, image: Tensor) -> Features:
        """Features of one image (3, H, W)."""
        found = describe_cells(self.backbone, torch.as_tensor(image), self._options)
        if self._most is not None:
            found = found.best(self._most)
        if self._projection is None:
            return found
        return replace(found, descriptors=self._projection.apply(found.descriptors))


class DenseAdapter(D2NetAdapter):
    """Cells of D2-Net's training form; its download() is D2-Net's."""

    noise = 3.0  # pixels: the corner of a cell may be another one in the other image

    def create(self, options: FeatureOptions) -> DenseD2Net:  # pyright: ignore
        """The network."""
        return DenseD2Net(options)

    def configuration(self, options: FeatureOptions) -> dict[str, Any]:
        """Options of cells, and the digests of weights and projection."""
        values = super().configuration(options)
        used = ("weights", "precision", "max_keypoints")
        values["d2net"] = {name: values["d2net"][name] for name in used}
        values["cells"] = config.to_dict(options.cells)
        if options.cells.dimensions is not None:
            values["projection_sha256"] = file_sha256(BUNDLED)
        return values


ADAPTER = DenseAdapter()
