"""Image files, opened and not yet decoded."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageFile

from d2_hloc.core.listing import HEIC, makes_pillow_read_heic


def open_file(path: Path) -> ImageFile.ImageFile:
    """Open an image file, HEIC too where pillow-heif is there; Pillow's errors are its own."""
    if path.suffix.lower() in HEIC:
        makes_pillow_read_heic()
    return Image.open(path)
