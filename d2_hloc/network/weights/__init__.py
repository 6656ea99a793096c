"""Weights of the trunk: bundled, from a checkpoint, or from an explicit download.

Loading is safe: safetensors, or torch's weights-only reader with an allow-list for what a published
training checkpoint holds beside its tensors. Nothing is downloaded unless download() is called.
"""

from __future__ import annotations

import argparse
import os
import pickle
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from d2_hloc.files.provenance import file_sha256
from d2_hloc.network.backbone import LAYERS

FOLDER = Path(__file__).parent
BUNDLED = {"d2_ots": FOLDER / "d2_ots.safetensors"}
PUBLISHED_KEY = "dense_feature_extraction.model."  # in the authors' checkpoints
TORCHVISION_KEY = "features."  # in torchvision's vgg16; its first layer takes RGB


class WeightsError(ValueError):
    """Weights that cannot be used; the text names the file and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """Where weights are published. `sha256` may be the beginning of the digest, or unknown."""

    url: str
    sha256: str | None = None


AUTHORS = "https://dusmanu.com/files/d2-net/"
DOWNLOADS = {
    "d2_tf": Download(url=AUTHORS + "d2_tf.pth"),
    "d2_tf_no_phototourism": Download(url=AUTHORS + "d2_tf_no_phototourism.pth"),
    # VGG16_Weights.IMAGENET1K_FEATURES; the file's name carries the digest's beginning.
    "vgg16_imagenet_features": Download(
        url="https://download.pytorch.org/models/vgg16_features-amdegroot-88682ab5.pth",
        sha256="88682ab5",
    ),
}


def load(source: str) -> dict[str, Tensor]:
    """State of a Backbone from a bundled or downloaded name, or from the path of a checkpoint.

    Raises:
        WeightsError: if there is no such file, it was changed since its download, or it does not
            hold VGG16's layers up to conv4_3.
    """
    path = locate(source)
    return to_backbone(_read(path), path)


def absolute(source: str) -> str:
    """A path from any folder; a name stays."""
    is_file = source not in BUNDLED and source not in DOWNLOADS and Path(source).is_file()
    return str(Path(source).resolve()) if is_file else source


def locate(source: str) -> Path:
    """The file behind a name or a path, its digest checked if it is a download."""
    if source in BUNDLED:
        return BUNDLED[source]
    if source not in DOWNLOADS:
        if Path(source).is_file():
            return Path(source)
        names = ", ".join([*BUNDLED, *DOWNLOADS])
        raise WeightsError(f"{source}: there is no such file, and the names known are {names}.")
    path = cache_folder() / f"{source}.pth"
    if not path.is_file():
        raise WeightsError(
            f"{path}: the weights {source} are not here; run 'd2-hloc weights {source}', "
            f"or put {DOWNLOADS[source].url} there."
        )
    verify(path, recorded_digest(path) or DOWNLOADS[source].sha256)
    return path


def cache_folder() -> Path:
    """Where downloads are kept: D2_HLOC_CACHE, or ~/.cache/d2_hloc."""
    return Path(os.environ.get("D2_HLOC_CACHE") or Path.home() / ".cache" / "d2_hloc")


def download(name: str, sha256: str | None = None, url: str | None = None) -> Path:
    """Fetch published weights into the cache, check and keep them; they load by name from then on.

    The digest to hold them to is `sha256`, or the published one where there is one. The digest that
    was found is recorded beside the file, and every later load is checked against it.

    Raises:
        WeightsError: for an unknown name, no network, a wrong digest or a file of another form.
    """
    if name not in DOWNLOADS:
        raise WeightsError(f"{name}: not a download; known are {', '.join(DOWNLOADS)}.")
    target = cache_folder() / f"{name}.pth"
    part = target.with_suffix(".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(url or DOWNLOADS[name].url, part)
        verify(part, sha256 or DOWNLOADS[name].sha256)
        to_backbone(_read(part), part)
        _digest_file(target).write_text(file_sha256(part) + "\n")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _fetch(url: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as reply, target.open("wb") as file:
            total = int(reply.headers.get("Content-Length") or 0) or None
            with tqdm(total=total, unit="B", unit_scale=True, desc=target.stem) as progress:
                while block := reply.read(1 << 20):
                    file.write(block)
                    progress.update(len(block))
    except (OSError, ValueError, HTTPException) as error:
        raise WeightsError(
            f"{url}: cannot be downloaded ({error}); fetch it on another machine and give its path."
        ) from error


def verify(path: Path, expected: str | None) -> None:
    """Raise WeightsError where a file's SHA-256 does not begin with `expected`."""
    if expected is None:
        return
    found = file_sha256(path)
    if not found.startswith(expected.lower()):
        raise WeightsError(
            f"{path}: its SHA-256 is {found}, not {expected}: it was changed or cut short; "
            "download it again."
        )


def recorded_digest(path: Path) -> str | None:
    """The digest that download() found, if it was recorded."""
    record = _digest_file(path)
    return record.read_text().strip() if record.is_file() else None


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with torch.serialization.safe_globals(_ALLOWED):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, since it is not a checkpoint or holds more than tensors; "
            "save its state dictionary alone."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise WeightsError(f"{path}: not a readable checkpoint ({_first_line(error)}).") from error
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


# What the authors' training script saves beside the model: its arguments and NumPy loss values.
_ALLOWED = [
    argparse.Namespace,
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def to_backbone(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
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
    """A Backbone's state under the authors' names, as load() takes it."""
    return {
        f"{PUBLISHED_KEY}{index}.{kind}": state[f"{name}.{kind}"].detach().cpu().contiguous()
        for name, (_, _, index) in LAYERS.items()
        for kind in ("weight", "bias")
    }
