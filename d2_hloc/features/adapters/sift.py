"""RootSIFT through pycolmap, for comparison: image -> Features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from d2_hloc.core import config
from d2_hloc.core.images import luma
from d2_hloc.core.pixels import from_colmap
from d2_hloc.core.structs import Features
from d2_hloc.features.adapter import Adapter
from d2_hloc.features.options import FeatureOptions, SiftOptions
from d2_hloc.files.colmap import pycolmap


class SiftExtractor:
    """COLMAP's SIFT with D2Net's call: a batch of images -> a list of Features."""

    def __init__(self, options: SiftOptions | None = None) -> None:
        options = options or SiftOptions()
        self._extractor = pycolmap.FeatureExtractor.create(
            pycolmap.FeatureExtractionOptions(
                use_gpu=False,
                sift=pycolmap.SiftExtractionOptions(
                    max_num_features=options.max_keypoints,
                    peak_threshold=options.peak_threshold,
                    edge_threshold=options.edge_threshold,
                    normalization=pycolmap.Normalization.L1_ROOT,
                ),
            ),
            device=pycolmap.Device.cpu,
        )

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> list[Features]:
        return [self.extract(image) for image in images]

    def extract(self, image: Float[Tensor, "3 H W"]) -> Features:
        """Features of one image, RGB in [0, 1]. The score of a keypoint is its scale, in pixels:
        SIFT's own strength does not leave COLMAP, and larger keypoints are more repeatable."""
        keypoints, descriptors = self._extractor.extract_from_uint8_array(luma_bytes(image))
        xy = np.array([(k.x, k.y) for k in keypoints], dtype=np.float32).reshape(-1, 2)
        scales = np.array([k.compute_scale() for k in keypoints], dtype=np.float32)
        values = torch.from_numpy(np.asarray(descriptors.data, dtype=np.float32).reshape(-1, 128))
        return Features(
            keypoints=torch.from_numpy(from_colmap(xy)),
            scores=torch.from_numpy(scales),
            descriptors=torch.nn.functional.normalize(values, dim=1),
            scales=torch.from_numpy(scales),
        )


def luma_bytes(image: Float[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W"]:
    """Brightness in 8 bits, as COLMAP and hloc read a grey image."""
    return (luma(image) * 255).round().byte().cpu().numpy()


class SiftAdapter(Adapter):
    """RootSIFT; it has no weights."""

    noise = 0.6  # pixels: the reprojection error of the D2-Net paper's Table 1 is 0.5 to 0.7

    def create(self, options: FeatureOptions) -> SiftExtractor:
        """The extractor."""
        return SiftExtractor(options.sift)

    def configuration(self, options: FeatureOptions) -> dict[str, Any]:
        """SIFT's options."""
        return {"sift": config.to_dict(options.sift)}

    def download(self, options: FeatureOptions) -> None:
        """Nothing has to be fetched."""


ADAPTER = SiftAdapter()
