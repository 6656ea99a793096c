"""Values of more than 8 bits, of cameras of 12 bits and of thermal ones, brought to 8."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

WHITE = 65535  # of 16 bits
SHARES = (0.1, 99.9)  # percentiles that become black and white
ENOUGH = 0.5  # of the range of 16 bits: what uses so much is left as it is
SAMPLED = 50  # images that the range of a folder is taken from

Span = tuple[float, float]


def is_wide(image: Image.Image) -> bool:
    """Whether the values of an opened image have more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


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


def to_eight_bits(image: Image.Image, span: Span | None = None) -> Image.Image:
    """A grey image of 8 bits, from one of more; `span` becomes black to white, None is its own."""
    values = np.asarray(image)
    low, high = span or own_span(values)
    if (low, high) != (0.0, float(WHITE)):
        _say_once()
    values = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    scaled = (values - low) / (high - low) * 255
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def _opens_wide(path: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return is_wide(image)
    except Exception:  # it is named where it is extracted
        return False


def _span_of(path: Path) -> Span | None:
    try:
        with Image.open(path) as image:
            return own_span(np.asarray(image))
    except Exception:
        return None


@cache
def _say_once() -> None:
    logger.info(
        "images of more than 8 bits a value are stretched by their own range, each from its %g %% "
        "to its %g %% percentile; --value-range folder takes one range for all",
        *SHARES,
    )
