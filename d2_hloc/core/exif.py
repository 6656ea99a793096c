"""Facts that an image file's header tells: its size, the camera that took it, which way is up."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from d2_hloc.core.orientation import ORIENTATIONS, UPRIGHT
from d2_hloc.core.photographs.opening import open_file

MAKE, MODEL, ORIENTATION, PHOTO = 0x010F, 0x0110, 0x0112, 0x8769
FOCAL_LENGTH, DIGITAL_ZOOM, FOCAL_LENGTH_35 = 0x920A, 0xA404, 0xA405


@dataclass(frozen=True, kw_only=True)
class ExifCamera:
    """The camera and its zoom, as far as EXIF tells one from another; focal lengths in mm."""

    make: str
    model: str
    focal_length: float
    focal_length_35: float
    digital_zoom: float


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """Size (w, h) as stored, EXIF's orientation from 1 to 8, and the camera, where it is named."""

    size: tuple[int, int]
    orientation: int = UPRIGHT
    camera: ExifCamera | None = None


def read_header(path: Path) -> ImageHeader | None:
    """The header of an image, without its pixels; None for a file that is no image.

    EXIF that is damaged, or says nonsense, is as none.
    """
    if not path.is_file():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_file(path) as file:
                size, exif = file.size, _tags(file)
    except Exception:  # Pillow raises whatever it meets in a damaged file
        return None
    return ImageHeader(size=size, orientation=_orientation(exif), camera=_camera(exif))


def read_orientation(path: Path) -> int:
    """EXIF's orientation of an image; 1, upright, where it tells none."""
    header = read_header(path)
    return UPRIGHT if header is None else header.orientation


def _tags(file: Image.Image) -> dict[int, Any]:
    """EXIF's tags, those of the photograph's own part among them."""
    try:
        exif = file.getexif()
        return dict(exif) | dict(exif.get_ifd(PHOTO))
    except Exception:
        return {}


def _orientation(exif: dict[int, Any]) -> int:
    """EXIF's orientation, from 1 to 8; 1 where it says none, or nonsense."""
    value = exif.get(ORIENTATION, UPRIGHT)
    return value if isinstance(value, int) and value in ORIENTATIONS else UPRIGHT


def _camera(exif: dict[int, Any]) -> ExifCamera | None:
    """COLMAP's rule: make, model and a focal length have to be there."""
    make, model = (str(exif.get(tag, "")).strip("\0 \t\n") for tag in (MAKE, MODEL))
    focal, focal_35 = (_number(exif.get(tag)) for tag in (FOCAL_LENGTH, FOCAL_LENGTH_35))
    if not make or not model or not (focal or focal_35):
        return None
    return ExifCamera(
        make=make,
        model=model,
        focal_length=focal,
        focal_length_35=focal_35,
        digital_zoom=max(1.0, _number(exif.get(DIGITAL_ZOOM))),  # 0 is none
    )


def _number(value: Any) -> float:
    """A positive number, or 0 for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0
