"""RootSIFT through pycolmap."""

from __future__ import annotations

from typing import Any

from d2_hloc import config
from d2_hloc.adapters.options import FeatureOptions
from d2_hloc.sift import Sift

NOISE = 0.6  # pixels: the reprojection error of the D2-Net paper's Table 1 is 0.5 to 0.7


def create(options: FeatureOptions) -> Sift:
    """The extractor."""
    return Sift(options.sift)


def configuration(options: FeatureOptions) -> dict[str, Any]:
    """SIFT's options."""
    return {"sift": config.to_dict(options.sift)}


def download(options: FeatureOptions) -> None:
    """There is nothing to fetch."""
