"""Values of more than 8 bits, of cameras of 12 bits and of thermal ones, brought to 8."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2_hloc.core.photographs.opening import open_file

logger = logging.getLogger(__name__)

WHITE = 65535  # of 16 bits
SHARES = (0.1, 99.9)  # percentiles that become black and white
ENOUGH = 0.5  # of the range of 16 bits: what uses so much is left as it is
SAMPLED = 50  # images that the range of a folder is taken from
EIGHT_BITS = "eight-bits"  # folder of images that COLMAP would take for black
BIG, LITTLE = ("16B", "16L")  # Pillow's names for 16 bits in a file; of colours it keeps 8
OTHER_BYTE = {BIG: LITTLE, LITTLE: BIG, "16N": BIG if sys.byteorder == "little" else LITTLE}

Span = tuple[float, float]


def is_wide(image: Image.Image) -> bool:
    """Whether the values of an image, opened and not yet decoded, have more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I") or _has_wide_colours(image)


def wide_values(image: Image.Image, path: Path) -> np.ndarray:
    """Values (H, W) or (H, W, 3) of an image that is_wide(), opened from `path`."""
    if not _has_wide_colours(image):
        return np.asarray(image)
    with open_file(path) as other:
        other.tile = [_with_other_byte(part) for part in other.tile]
        low = np.asarray(other)[..., :3]
    return np.asarray(image)[..., :3].astype(np.uint16) * 256 + low


def _has_wide_colours(image: Image.Image) -> bool:
    parts = getattr(image, "tile", None) or ()
    return bool(parts) and all(_of_other_byte(part[3]) is not None for part in parts)


def _with_other_byte(part: Any) -> Any:
    arguments = _of_other_byte(part[3])
    has_names = hasattr(part, "_replace")  # since Pillow 11, which asks for them
    return part._replace(args=arguments) if has_names else (*part[:3], arguments)


def _of_other_byte(arguments: Any) -> Any:
    """Arguments of Pillow's decoder for the low bytes of colours of 16 bits; None of others."""
    first, *rest = arguments if isinstance(arguments, tuple) and arguments else (arguments,)
    colours, _, form = first.partition(";") if isinstance(first, str) else ("", "", "")
    if colours not in ("RGB", "RGBA") or form not in OTHER_BYTE:
        return None
    changed = f"{colours};{OTHER_BYTE[form]}"
    return (changed, *rest) if isinstance(arguments, tuple) else changed


def own_span(values: np.ndarray) -> Span:
    """The values that become black and white: percentiles of the finite ones.

    16 bits that are well used stay from 0 to 65535.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = np.percentile(finite, SHARES)
    is_whole = np.issubdtype(values.dtype, np.integer)
    if is_whole and finite.min() >= 0 and finite.max() <= WHITE and high - low >= ENOUGH * WHITE:
        return 0.0, float(WHITE)
    return float(low), float(high) if high > low else float(low) + 1


def has_wide(folder: Path, names: Iterable[str]) -> bool:
    """Whether any of these images has values of more than 8 bits."""
    return any(_opens_wide(folder / name) for name in names)


def folder_span(folder: Path, names: Iterable[str]) -> Span | None:
    """One span for all images of a folder, from some of them; None where none has so many bits."""
    wide = [path for path in (folder / name for name in names) if _opens_wide(path)]
    chosen = wide[:: -(-len(wide) // SAMPLED)] if wide else []
    spans = [span for path in chosen if (span := _span_of(path)) is not None]
    return (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else None


def to_eight_bits(values: np.ndarray, span: Span | None = None) -> Image.Image:
    """An image of 8 bits, from values of more; `span` becomes black to white, None is its own."""
    low, high = span or own_span(values)
    if (low, high) != (0.0, float(WHITE)):
        _say_once()
    values = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    scaled = (values - low) / (high - low) * 255
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def eight_bit_images(images: Path, names: Sequence[str], part: Path) -> Path:
    """The folder of images; where some have more than 8 bits, one of links, with those stretched.

    COLMAP keeps the highest 8 bits of 16, in which a camera of 12 bits has next to nothing.
    """
    if not has_wide(images, names):
        return images
    for name in names:
        path = part / EIGHT_BITS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_file(images / name) as image:
            if is_wide(image):
                to_eight_bits(wide_values(image, images / name)).save(path)
                continue
        path.symlink_to((images / name).resolve())
    return part / EIGHT_BITS


def _opens_wide(path: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_file(path) as image:
                return is_wide(image)
    except Exception:  # it is named where it is extracted
        return False


def _span_of(path: Path) -> Span | None:
    try:
        with open_file(path) as image:
            return own_span(wide_values(image, path))
    except Exception:
        return None


@cache
def _say_once() -> None:
    logger.info(
        "images of more than 8 bits a value are stretched by their own range, each from its %g %% "
        "to its %g %% percentile; --value-range folder takes one range for all",
        *SHARES,
    )
