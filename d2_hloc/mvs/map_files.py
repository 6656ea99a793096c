"""Files of depth and normal maps: COLMAP's binary form, and MegaDepth's."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float

from d2_hloc.files.atomic import write_whole

HEADER_BYTES = 64  # more than 'width&height&channels&' takes


class DepthMapError(ValueError):
    """A map that cannot be used; the text names the file and the remedy."""


def write_stereo_map(path: Path, values: Float[np.ndarray, "*C H W"]) -> Path:
    """Write a depth (H, W) or normal (3, H, W) map as COLMAP does, whole or not at all.

    Raises:
        ValueError: if a value is not finite.
        DiskFull: if there is no space.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: {(~np.isfinite(values)).sum()} values are not finite.")
    height, width = values.shape[-2:]
    channels = values.shape[0] if values.ndim == 3 else 1
    header = f"{width}&{height}&{channels}&".encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, header + np.ascontiguousarray(values, dtype="<f4").tobytes())
    return path


def read_stereo_map(path: Path) -> Float[np.ndarray, "*C H W"]:
    """Read what write_stereo_map() wrote: (H, W) if there is one channel.

    Raises:
        DepthMapError: if it is missing, damaged or cut short.
    """
    try:
        data = path.read_bytes()
        width, height, channels = _header(data[:HEADER_BYTES])
        values = np.frombuffer(data[len(f"{width}&{height}&{channels}&") :], dtype="<f4")
        values = values.reshape(channels, height, width).astype(np.float32)
    except OSError as error:
        raise DepthMapError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise DepthMapError(f"{path}: is damaged or cut short; delete it and run again.") from error
    return values[0] if channels == 1 else values


def is_stereo_map(path: Path, height: int, width: int, channels: int = 1) -> bool:
    """Tell whether there is a whole map of this shape, by its first bytes and its length."""
    try:
        with path.open("rb") as file:
            shape = _header(file.read(HEADER_BYTES))
    except (OSError, ValueError):
        return False
    header = len(f"{width}&{height}&{channels}&")
    is_whole = path.stat().st_size == header + 4 * width * height * channels
    return shape == (width, height, channels) and is_whole


def _header(data: bytes) -> tuple[int, int, int]:
    """Width, height and channels."""
    width, height, channels, _ = data.split(b"&", 3)
    return int(width), int(height), int(channels)


def write_depth_h5(path: Path, depth: Float[np.ndarray, "H W"]) -> Path:
    """Write a depth map in MegaDepth's form: an HDF5 file with `/depth`, 0 where there is none."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("depth", data=depth.astype(np.float32), compression="gzip")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, buffer.getvalue())
    return path
