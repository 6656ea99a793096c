"""Local features of an installed hloc, by the name of a conf: `hloc:disk`, `hloc:superpoint_max`.

The model of a conf, and whether it sees grey images, count. Sizes are those that all features here
are extracted at, so that a comparison is of features alone.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2_hloc.core.structs import Features
from d2_hloc.features.adapter import Adapter
from d2_hloc.features.adapters.sift import luma_bytes
from d2_hloc.features.names import HLOC
from d2_hloc.features.options import FeatureOptions
from d2_hloc.features.pretrained import PretrainedExtractor
from d2_hloc.network.weights.catalogue import WeightsError
from d2_hloc.network.weights.state import first_line

Conf = dict[str, Any]


class HlocExtractor(PretrainedExtractor):
    """A model of hloc's."""

    def __init__(self, model: nn.Module, is_grey: bool) -> None:
        super().__init__()
        self.model, self.is_grey = model, is_grey

    def find(self, image: Float[Tensor, "3 H W"]) -> Features:
        """hloc's output without its batch, descriptors N x D."""
        seen = quantized_luma(image) if self.is_grey else image
        found = {key: value[0] for key, value in self.model({"image": seen[None]}).items()}
        ones = torch.ones(len(found["keypoints"]), device=image.device)
        return Features(
            keypoints=found["keypoints"],
            scores=found.get("scores", ones),
            descriptors=found["descriptors"].T,
            scales=found.get("scales", ones),
        )


def quantized_luma(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "1 H W"]:
    """Brightness in steps of 1 / 255, as hloc reads a grey image."""
    values = torch.from_numpy(luma_bytes(image).astype(np.float32) / 255)
    return values[None].to(image.device)


def build_model(feature: str, conf: Conf) -> nn.Module:
    """hloc's own way from a conf to a model.

    Raises:
        WeightsError: whatever hloc raises.
    """
    try:
        base_model = importlib.import_module("hloc.utils.base_model")
        extractors = importlib.import_module("hloc.extractors")
        return base_model.dynamic_load(extractors, conf["model"]["name"])(conf["model"]).eval()
    except Exception as error:  # a missing submodule, a failed download, anything
        raise WeightsError(f"{feature}: hloc cannot make it ({first_line(error)}).") from error


def conf_of(feature: str) -> Conf:
    """hloc's conf of local features.

    Raises:
        ValueError: if hloc cannot be imported, or has no such conf.
    """
    try:
        confs = importlib.import_module("hloc.extract_features").confs
    except ImportError as error:
        raise ValueError(
            f"{feature}: hloc cannot be used ({first_line(error)}): install what is missing, "
            "hloc itself from https://github.com/cvg/Hierarchical-Localization."
        ) from error
    local = [name for name, conf in confs.items() if not conf["output"].startswith("global-")]
    if feature.removeprefix(HLOC) not in local:
        raise ValueError(f"hloc has no local features {feature!r}; known are {', '.join(local)}.")
    return confs[feature.removeprefix(HLOC)]


@contextmanager
def offline(feature: str) -> Iterator[None]:
    """No name of a host is looked up meanwhile: hloc's models download where they are made.

    Raises:
        WeightsError: if that is why they could not be made.
    """
    asked: list[str] = []

    def refuse(host: Any, *_: Any, **__: Any) -> Any:
        asked.append(str(host))
        raise WeightsError(f"{host} is not asked")  # an OSError would be tried again

    look_up: Callable[..., Any] = socket.getaddrinfo
    socket.getaddrinfo = refuse
    try:
        yield
    except WeightsError as error:
        if asked:
            raise WeightsError(
                f"{feature}: hloc has to fetch weights from {asked[0]}; run with --download."
            ) from error
        raise
    finally:
        socket.getaddrinfo = look_up


class HlocAdapter(Adapter):
    """Local features of hloc's; their names are 'hloc:' and the conf's."""

    def create(self, options: FeatureOptions) -> HlocExtractor:
        """hloc's model, made without the network; download() lets hloc fetch what it needs."""
        conf = conf_of(options.feature)
        with offline(options.feature):
            model = build_model(options.feature, conf)
        return HlocExtractor(model, bool(conf["preprocessing"].get("grayscale")))

    def configuration(self, options: FeatureOptions) -> dict[str, Any]:
        """The conf's model."""
        return {"hloc": deepcopy(conf_of(options.feature)["model"])}

    def download(self, options: FeatureOptions) -> None:
        """Make the model once: hloc fetches its weights when it does.

        Raises:
            WeightsError: if that fails.
        """
        build_model(options.feature, conf_of(options.feature))


ADAPTER = HlocAdapter()
