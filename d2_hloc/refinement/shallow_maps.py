"""Shallow maps of images, made once while they are in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2_hloc.core.cache import BoundedCache
from d2_hloc.core.devices import chosen_device, sent
from d2_hloc.core.images import read_image
from d2_hloc.core.orientation import UPRIGHT, to_stored, to_upright, upright_size
from d2_hloc.core.pixels import rescale
from d2_hloc.files import features_h5
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.options import D2NetOptions, Precision
from d2_hloc.refinement.patches import ShallowMaps, shallow_maps

CACHE_BYTES = 1 << 30  # of maps held at once: five images of 1600 x 1200 pixels, below 3 GB in all


@dataclass(frozen=True, kw_only=True)
class ImageMaps:
    """Shallow maps of an image, turned the right way up and reduced.

    `scale` is their size over that of the upright image (x, y).
    """

    maps: ShallowMaps
    scale: np.ndarray
    stored_size: tuple[int, int]
    orientation: int

    @property
    def nbytes(self) -> int:
        return self.maps.nbytes

    def to_maps(self, xy: Tensor) -> Tensor:
        """Stored pixels -> those of the maps, on the maps' device."""
        upright = to_upright(xy, self.orientation, self.stored_size)
        return rescale(upright, torch.from_numpy(self.scale)).float().to(self.maps.fine.device)

    def to_original(self, xy: Tensor) -> Tensor:
        """Pixels of the maps -> stored ones, on the processor."""
        upright = rescale(xy.cpu().double(), torch.from_numpy(1 / self.scale))
        return to_stored(upright, self.orientation, self.stored_size).float()


class MapReader:
    """Shallow maps of images as features were extracted from them: turned, and at their size."""

    def __init__(self, resize_max: int | None, precision: Precision = "float32") -> None:
        self._device = chosen_device()
        self._backbone = D2Net(D2NetOptions(precision=precision)).backbone.to(self._device)
        self._resize_max = resize_max

    def of(
        self,
        folder: Path,
        capacity: int,
        at_least: int,
        orientations: Mapping[str, int] | None = None,
    ) -> BoundedCache[str, ImageMaps]:
        """Maps of a folder's images by name, made once while they are in use.

        `orientations` are EXIF's, of the images that are not upright. Looking one up raises
        ImageError if the image is no longer there.
        """
        turned = orientations or {}

        def read(name: str) -> ImageMaps:
            return self._read(folder / name, turned.get(name, UPRIGHT))

        return BoundedCache(read, capacity, at_least)

    def _read(self, path: Path, orientation: int) -> ImageMaps:
        image, stored_size = read_image(path, self._resize_max, orientation)
        size = np.array([image.shape[2], image.shape[1]])
        return ImageMaps(
            maps=shallow_maps(self._backbone, sent(image, self._device)),
            scale=size / upright_size(stored_size, orientation),
            stored_size=stored_size,
            orientation=orientation,
        )


def resize_max_of(features: Path) -> int | None:
    """The longest edge of the images that features were extracted from; None: they were whole."""
    return (features_h5.read_configuration(features) or {}).get("resize_max")
