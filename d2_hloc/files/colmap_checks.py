"""COLMAP's binary model files, walked record by record: are they whole?

COLMAP trusts the counts in them; on a file that was cut short it hangs and eats memory.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path


class Damaged(ValueError):
    """A file that is missing or cut short; the text names it."""


def check_model_files(
    folder: Path, num_params: Callable[[int], int], needs_points: bool = True
) -> None:
    """Walk the files of a model.

    Args:
        folder: holds cameras.bin, images.bin and points3D.bin.
        num_params: tells how many numbers a camera model has.
        needs_points: whether points3D.bin has to be there.

    Raises:
        Damaged: for the first file that is missing, cut short or too long.
    """
    walks: dict[str, Callable[[bytes], int]] = {
        "cameras.bin": lambda data: _cameras(data, num_params),
        "images.bin": _images,
        "points3D.bin": _points,
    }
    if (folder / "rigs.bin").exists() or (folder / "frames.bin").exists():  # not before COLMAP 3.12
        walks |= {"rigs.bin": _rigs, "frames.bin": _frames}
    if not needs_points and not (folder / "points3D.bin").is_file():
        del walks["points3D.bin"]
    for name, walk in walks.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{path}: there is no such file; give the folder of a COLMAP model.")
        data = path.read_bytes()
        try:
            is_whole = walk(data) == len(data)
        except (struct.error, IndexError, OverflowError, ValueError):
            is_whole = False
        if not is_whole:
            raise Damaged(f"{path}: is damaged or cut short; reconstruct again.")


def _count(data: bytes) -> Iterator[int]:
    return iter(range(struct.unpack_from("<Q", data)[0]))


def _cameras(data: bytes, num_params: Callable[[int], int]) -> int:
    """Walk records of id, model, width, height, parameters; return where the last one ends."""
    offset = 8
    for _ in _count(data):
        offset += 24 + 8 * num_params(struct.unpack_from("<i", data, offset + 4)[0])
    return offset


def _images(data: bytes) -> int:
    """Walk records of id, pose and camera, name, points."""
    offset = 8
    for _ in _count(data):
        offset = data.index(b"\0", offset + 64) + 1
        offset += 8 + 24 * struct.unpack_from("<Q", data, offset)[0]
    return offset


def _points(data: bytes) -> int:
    """Walk records of id, position, colour and error, track."""
    offset = 8
    for _ in _count(data):
        if not all(map(math.isfinite, struct.unpack_from("<3d", data, offset + 8))):
            raise ValueError("a point without a place")
        offset += 51 + 8 * struct.unpack_from("<Q", data, offset + 43)[0]
    return offset


def _rigs(data: bytes) -> int:
    """Walk records of id, the reference sensor, and other sensors with or without a pose."""
    offset = 8
    for _ in _count(data):
        sensors = struct.unpack_from("<I", data, offset + 4)[0]
        offset += 8 + (8 if sensors else 0)
        for _ in range(sensors - 1):
            offset += 9 + (56 if data[offset + 8] else 0)
    return offset


def _frames(data: bytes) -> int:
    """Walk records of id, rig, pose, and what each sensor saw."""
    offset = 8
    for _ in _count(data):
        offset += 68 + 16 * struct.unpack_from("<I", data, offset + 64)[0]
    return offset


def without_points(folder: Path, target: Path) -> None:
    """Write a model's cameras and poses to another folder, and no points."""
    for path in folder.glob("*.bin"):
        if path.name not in ("images.bin", "points3D.bin"):
            (target / path.name).write_bytes(path.read_bytes())
    data = (folder / "images.bin").read_bytes()
    stripped, offset = [data[:8]], 8
    for _ in _count(data):
        name_end = data.index(b"\0", offset + 64) + 1
        stripped += [data[offset:name_end], bytes(8)]
        offset = name_end + 8 + 24 * struct.unpack_from("<Q", data, name_end)[0]
    (target / "images.bin").write_bytes(b"".join(stripped))
    (target / "points3D.bin").write_bytes(bytes(8))
