"""State dictionaries of checkpoints: read safely, and renamed from and to the published form."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from d2_hloc.network.backbone import LAYERS
from d2_hloc.network.weights.catalogue import BUNDLED, WeightsError

PUBLISHED_KEY = "dense_feature_extraction.model."  # in the authors' checkpoints
TORCHVISION_KEY = "features."  # in torchvision's vgg16; its first layer takes RGB

# How NumPy pickles a number; it stands in a module that NumPy calls private.
SCALAR = np.float64(0).__reduce__()[0]
# The authors' training script saves its arguments and NumPy loss values beside the model.
ALLOWED = [
    argparse.Namespace,
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
]


def read_state(path: Path) -> dict[Any, Any]:
    """The state dictionary in a file of safetensors or of torch's form, under whatever names.

    Raises:
        WeightsError: if it cannot be read, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with torch.serialization.safe_globals(ALLOWED):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, since it is not a checkpoint or holds more than tensors; "
            "save its state dictionary alone."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise WeightsError(f"{path}: not a readable checkpoint ({first_line(error)}).") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict):
        raise WeightsError(f"{path}: holds a {type(state).__name__}, not a state dictionary.")
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """A whole state, or the layers that differ from the bundled weights that its note names."""
    with safe_open(path, "pt") as file:
        base = (file.metadata() or {}).get("base")
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return load_file(BUNDLED[base]) | state if base in BUNDLED else state


def first_line(error: Exception) -> str:
    """The first line of an exception's text, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def to_backbone(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Rename a published or a torchvision state; check the shape of every layer.

    Raises:
        WeightsError: if a layer is missing or has another shape.
    """
    state = {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}
    prefix = PUBLISHED_KEY if f"{PUBLISHED_KEY}0.weight" in state else TORCHVISION_KEY
    result = {}
    for name, (channels_in, channels_out, index) in LAYERS.items():
        shapes = {"weight": (channels_out, channels_in, 3, 3), "bias": (channels_out,)}
        for kind, shape in shapes.items():
            value = state.get(f"{prefix}{index}.{kind}")
            if value is None or tuple(value.shape) != shape:
                found = "missing" if value is None else f"of shape {tuple(value.shape)}"
                raise WeightsError(
                    f"{path}: not a D2-Net or VGG16 checkpoint: {prefix}{index}.{kind} is {found}, "
                    f"expected {shape}."
                )
            result[f"{name}.{kind}"] = value.float()
    if prefix == TORCHVISION_KEY:
        result["conv1_1.weight"] = result["conv1_1.weight"].flip(1)  # RGB -> BGR
    return result


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Backbone's state under the authors' names, as load_weights() takes it."""
    return {
        f"{PUBLISHED_KEY}{index}.{kind}": state[f"{name}.{kind}"].detach().cpu().contiguous()
        for name, (_, _, index) in LAYERS.items()
        for kind in ("weight", "bias")
    }
