"""D2-Net, single-scale and multi-scale."""

from __future__ import annotations

from typing import Any

from d2_hloc.core import config
from d2_hloc.features.options import FeatureOptions
from d2_hloc.files.provenance import file_sha256
from d2_hloc.network import weights
from d2_hloc.network.d2net import D2Net

NOISE = 1.3  # pixels: the reprojection error of the paper's Table 1 is 1.28


def create(options: FeatureOptions) -> D2Net:
    """The network, with the weights that the options name."""
    return D2Net(options.d2net_options)


def configuration(options: FeatureOptions) -> dict[str, Any]:
    """The network's options and the weights' digest."""
    digest = file_sha256(weights.locate(options.d2net.weights))
    return {"d2net": config.to_dict(options.d2net_options), "weights_sha256": digest}


def download(options: FeatureOptions) -> None:
    """Fetch the published weights, if they are asked for and not there."""
    name = options.d2net.weights
    if name in weights.DOWNLOADS and not (weights.cache_folder() / f"{name}.pth").is_file():
        weights.download(name)
