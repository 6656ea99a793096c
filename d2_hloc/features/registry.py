"""Local features by name: one adapter a family, and every one is called as D2Net is.

An adapter is a module of this folder. It has

    NOISE                   standard deviation of its keypoints, pixels of the extracted image
    create(options)         the network or algorithm: images B x 3 x H x W -> a list of Features
    configuration(options)  what its output depends on, as plain values
    download(options)       fetch the weights that it needs, if they are not there

Only download() asks the network for anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import Tensor

from d2_hloc.core.structs import Features
from d2_hloc.features.options import FeatureOptions

Extractor = Callable[[Tensor], list[Features]]

# The module of each feature. They are imported when they are asked for: kornia takes seconds.
MODULES = {
    "d2net": "d2net",
    "d2net-ms": "d2net",
    "sift": "sift",
    "keynet-affnet-hardnet": "hardnet",
    "hesaffnet-hardnet": "hardnet",
    "disk": "disk",
    "dedode": "dedode",
    "xfeat": "xfeat",
}
HLOC = "hloc:"  # before the name of one of hloc's own confs


class Adapter(Protocol):
    """What each module of this folder has."""

    NOISE: float

    def create(self, options: FeatureOptions) -> Extractor: ...

    def configuration(self, options: FeatureOptions) -> dict[str, Any]: ...

    def download(self, options: FeatureOptions) -> None: ...


def adapter_of(feature: str) -> Adapter:
    """The adapter of a feature.

    Raises:
        ValueError: if there is no feature of that name.
    """
    check_name(feature)
    name = "hloc_confs" if feature.startswith(HLOC) else MODULES[feature]
    return cast(Adapter, importlib.import_module(f"d2_hloc.features.{name}"))


def has_global_descriptor(feature: str) -> bool:
    """Does it pool a descriptor of the whole image, for retrieval?"""
    return MODULES.get(feature) == "d2net"


def file_name(feature: str) -> str:
    """A feature's name as files and folders can have it."""
    return feature.replace(":", "-")


def check_name(feature: str) -> None:
    """Raise ValueError if there is no feature of that name. hloc's own are not looked up yet."""
    is_of_hloc = feature.startswith(HLOC) and len(feature) > len(HLOC)
    if feature not in MODULES and not is_of_hloc:
        raise ValueError(
            f"there is no feature {feature!r}; known are {', '.join(MODULES)}, "
            f"and {HLOC}CONF for a conf of hloc's."
        )
