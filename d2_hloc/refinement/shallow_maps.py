"""Shallow maps of images, made once while they are in use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2_hloc.core.cache import BoundedCache
from d2_hloc.core.images import read_image
from d2_hloc.core.pixels import rescale
from d2_hloc.files import features_h5
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.options import D2NetOptions
from d2_hloc.refinement.patches import ShallowMaps, shallow_maps

CACHE_BYTES = 2 << 30  # of maps held at once


@dataclass(frozen=True, kw_only=True)
class ImageMaps:
    """Shallow maps of an image, and its size when they were made over its original size (x, y)."""

    maps: ShallowMaps
    scale: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.maps.nbytes

    def to_maps(self, xy: Tensor) -> Tensor:
        """Original pixels -> those of the maps."""
        return rescale(xy, torch.from_numpy(self.scale)).float()

    def to_original(self, xy: Tensor) -> Tensor:
        """Pixels of the maps -> original ones."""
        return rescale(xy.double(), torch.from_numpy(1 / self.scale)).float()


class MapReader:
    """Shallow maps of images at the size that features were extracted at."""

    def __init__(self, resize_max: int | None) -> None:
        # Half the time where the processor multiplies bfloat16 matrices itself.
        precision = "bfloat16" if torch.cpu._is_amx_tile_supported() else "float32"
        self._backbone = D2Net(D2NetOptions(precision=precision)).backbone
        self._resize_max = resize_max

    def of(self, folder: Path, capacity: int, at_least: int) -> BoundedCache[str, ImageMaps]:
        """Maps of a folder's images by name, made once while they are in use.

        Looking one up raises ImageError if the image is no longer there.
        """
        return BoundedCache(lambda name: self._read(folder / name), capacity, at_least)

    def _read(self, path: Path) -> ImageMaps:
        image, original = read_image(path, self._resize_max)
        scale = np.array([image.shape[2], image.shape[1]]) / original
        return ImageMaps(maps=shallow_maps(self._backbone, image), scale=scale)


def resize_max_of(features: Path) -> int | None:
    """The longest edge of the images that features were extracted from; None: they were whole."""
    return (features_h5.read_configuration(features) or {}).get("resize_max")
