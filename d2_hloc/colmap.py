"""pycolmap, imported in the one safe order, and the calls that need a check before them.

zlib comes first: with pycolmap 4.1-4.2 the other order aborts the process at the next use of zlib.
"""

from __future__ import annotations

import struct
import zlib  # noqa: F401 - before pycolmap
from pathlib import Path

import pycolmap

__all__ = ["ModelError", "pycolmap", "quiet", "read_model"]


class ModelError(ValueError):
    """A model or database that cannot be used; the text names the file and the remedy."""


def quiet() -> None:
    """Keep COLMAP's own log to warnings. For the command line: a library leaves it alone."""
    pycolmap.logging.minloglevel = int(pycolmap.logging.ERROR)


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """Read a COLMAP model.

    Raises:
        ModelError: if files are missing or cut short: COLMAP itself would hang on those.
    """
    if (folder / "images.txt").is_file() and not (folder / "images.bin").is_file():
        return pycolmap.Reconstruction(folder)
    for name, check in (
        ("cameras.bin", _check_count),
        ("images.bin", _check_images),
        ("points3D.bin", _check_points),
    ):
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{path}: there is no such file; give the folder of a COLMAP model.")
        try:
            check(path.read_bytes())
        except (struct.error, IndexError, ValueError) as error:
            raise ModelError(f"{path}: is damaged or cut short; reconstruct again.") from error
    return pycolmap.Reconstruction(folder)


def _check_count(data: bytes) -> None:
    struct.unpack_from("<Q", data)


def _check_images(data: bytes) -> None:
    """Walk the records: id, pose and camera, name, points."""
    (count,), offset = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        offset = data.index(b"\0", offset + 64) + 1
        offset += 8 + 24 * struct.unpack_from("<Q", data, offset)[0]
    _check_end(data, offset)


def _check_points(data: bytes) -> None:
    """Walk the records: id, position, colour and error, track."""
    (count,), offset = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        offset += 51 + 8 * struct.unpack_from("<Q", data, offset + 43)[0]
    _check_end(data, offset)


def _check_end(data: bytes, offset: int) -> None:
    if offset != len(data):
        raise ValueError(f"{len(data)} bytes where {offset} belong")
