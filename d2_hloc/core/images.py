"""Read and resize images; RGB in [0, 1], as they are stored, or turned the right way up."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from d2_hloc.core.listing import ImageError
from d2_hloc.core.orientation import UPRIGHT, upright_image
from d2_hloc.core.photographs.opening import open_file
from d2_hloc.core.photographs.tones import Span, is_wide, to_eight_bits, wide_values

T = TypeVar("T")


def open_image(path: Path, span: Span | None = None) -> Image.Image:
    """Decode a whole image to 8-bit RGB, whatever its mode.

    Where values have more than 8 bits, `span` becomes black to white; None is the image's own.

    Raises:
        ImageError: for a file that is missing, empty, truncated or not an image.
    """
    return _decoded(path, lambda image: _to_rgb(image, path, span))


def open_alpha(path: Path) -> np.ndarray | None:
    """Opacity of an image's pixels (H, W), from 0 to 255; None where the file has none.

    Raises:
        ImageError: as open_image.
    """

    def to_alpha(image: Image.Image) -> np.ndarray | None:
        image.load()
        has_alpha = "A" in image.getbands() or "transparency" in image.info
        return np.array(image.convert("RGBA").getchannel("A")) if has_alpha else None

    return _decoded(path, to_alpha)


def _decoded(path: Path, convert: Callable[[Image.Image], T]) -> T:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ImageError(f"{path}: is a pipe, a socket or a device, and no image.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with open_file(path) as file:
                return convert(file)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such image.") from error
    except Exception as error:  # Pillow raises whatever it meets in a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: cannot be read as an image ({reason}).") from error


def _to_rgb(image: Image.Image, path: Path, span: Span | None) -> Image.Image:
    if is_wide(image):  # asked before it is decoded
        image = to_eight_bits(wide_values(image, path), span)
    return image.convert("RGB")


def fit(size: tuple[int, int], resize_max: int | None) -> tuple[int, int]:
    """The size (w, h) with its longest edge at most `resize_max`, as hloc rounds it."""
    if resize_max is None or max(size) <= resize_max:
        return size
    scale = resize_max / max(size)
    width, height = (max(1, round(edge * scale)) for edge in size)
    return width, height


def enlargement(size: tuple[int, int], resize_max: int | None) -> float:
    """Pixels of an image of a size (w, h) in one of it reduced by fit()."""
    return max(size) / max(fit(size, resize_max))


def to_tensor(image: Image.Image) -> Float[Tensor, "3 H W"]:
    """Convert an image to a tensor of RGB in [0, 1]."""
    values = np.array(image, dtype=np.uint8)
    return torch.from_numpy(values).permute(2, 0, 1).contiguous().float() / 255


def luma(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "H W"]:
    """Brightness of an RGB image by ITU-R BT.601, as COLMAP and PIL weigh the colours."""
    return torch.einsum("chw,c->hw", image, image.new_tensor([0.299, 0.587, 0.114]))


def read_image(
    path: Path,
    resize_max: int | None = None,
    orientation: int = UPRIGHT,
    span: Span | None = None,
) -> tuple[Float[Tensor, "3 H W"], tuple[int, int]]:
    """An image, its longest edge reduced to `resize_max`, and its stored size (w, h).

    `orientation` is EXIF's, by which the image is turned the right way up; its own does not count.
    `span` is as open_image's.
    """
    stored = open_image(path, span)
    image = upright_image(stored, orientation)
    size = fit(image.size, resize_max)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)  # widens its support: no aliasing
    return to_tensor(image), stored.size
