"""D2-Net, single-scale and multi-scale."""

from __future__ import annotations

from typing import Any

from d2_hloc.core import config
from d2_hloc.features.adapter import Adapter
from d2_hloc.features.options import FeatureOptions
from d2_hloc.files.provenance import file_sha256
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.weights.catalogue import PUBLISHED, cached_file
from d2_hloc.network.weights.download import download_weights
from d2_hloc.network.weights.files import locate_weights


class D2NetAdapter(Adapter):
    """D2-Net, with the weights that the options name."""

    noise = 1.3  # pixels: the reprojection error of the paper's Table 1 is 1.28

    def create(self, options: FeatureOptions) -> D2Net:
        """The network."""
        return D2Net(options.d2net_options)

    def configuration(self, options: FeatureOptions) -> dict[str, Any]:
        """The network's options and the weights' digest."""
        digest = file_sha256(locate_weights(options.d2net.weights))
        values = config.to_dict(options.d2net_options)
        if not options.d2net_options.second_scales:  # as before there could be any
            del values["second_scales"]
        return {"d2net": values, "weights_sha256": digest}

    def download(self, options: FeatureOptions) -> None:
        """Fetch the published weights, if they are asked for and not there."""
        name = options.d2net.weights
        if name in PUBLISHED and not cached_file(name).is_file():
            download_weights(name)


ADAPTER = D2NetAdapter()
