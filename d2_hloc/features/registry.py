"""The table of local features by name; a module of adapters/ is a family of them."""

from __future__ import annotations

import importlib

from d2_hloc.features.adapter import Adapter
from d2_hloc.features.names import DETECTED, HLOC, MODULES, check_name


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
    return feature in DETECTED


def file_name(feature: str) -> str:
    """A feature's name as files and folders can have it."""
    return feature.replace(":", "-")
