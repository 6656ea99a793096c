"""Weights that have a name: those in the package, and those that are published."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
BUNDLED = {"d2_ots": FOLDER / "d2_ots.safetensors"}
AUTHORS = "https://dusmanu.com/files/d2-net/"


class WeightsError(ValueError):
    """Weights that cannot be used; the text names the file and the remedy."""


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """Address of published weights. `sha256` may be the beginning of the digest, or unknown."""

    url: str
    sha256: str | None = None


PUBLISHED = {
    "d2_tf": PublishedFile(url=AUTHORS + "d2_tf.pth"),
    "d2_tf_no_phototourism": PublishedFile(url=AUTHORS + "d2_tf_no_phototourism.pth"),
    # VGG16_Weights.IMAGENET1K_FEATURES; the file's name carries the digest's beginning.
    "vgg16_imagenet_features": PublishedFile(
        url="https://download.pytorch.org/models/vgg16_features-amdegroot-88682ab5.pth",
        sha256="88682ab5",
    ),
}


def cache_folder() -> Path:
    """Folder that downloads are kept in: D2_HLOC_CACHE, or ~/.cache/d2_hloc."""
    return Path(os.environ.get("D2_HLOC_CACHE") or Path.home() / ".cache" / "d2_hloc")


def cached_file(name: str) -> Path:
    """Path of published weights in the cache, be they there or not."""
    return cache_folder() / f"{name}.pth"


def absolute_source(source: str) -> str:
    """The name of weights as it is, the path of a file from any folder; nothing is looked up.

    A text without folder and suffix is a name.
    """
    is_path = Path(source).suffix != "" or Path(source).name != source
    return str(Path(source).absolute()) if is_path else source
