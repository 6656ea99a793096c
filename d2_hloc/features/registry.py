"""The table of local features by name; a module of adapters/ is a family of them."""

from __future__ import annotations

import importlib

from d2_hloc.features.adapter import Adapter

# Feature: module of adapters/.
MODULES = {
    "d2net": "d2net",
    "d2net-ms": "d2net",
    "sift": "sift",
    "keynet-affnet-hardnet": "hardnet",
    "hesaffnet-hardnet": "hardnet",
    "disk": "disk",
    "aliked": "aliked",
    "dedode": "dedode",
    "xfeat": "xfeat",
}
HLOC = "hloc:"  # before the name of one of hloc's own confs


def adapter_of(feature: str) -> Adapter:
    """The adapter of a feature.

    Raises:
        ValueError: if there is no feature of that name.
    """
    check_name(feature)
    name = "hloc_confs" if feature.startswith(HLOC) else MODULES[feature]
    return importlib.import_module(f"d2_hloc.features.adapters.{name}").ADAPTER


def has_global_descriptor(feature: str) -> bool:
    """Tell whether a feature pools a descriptor of the whole image, for retrieval."""
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
