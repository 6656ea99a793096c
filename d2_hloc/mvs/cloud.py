"""Points of binary PLY files: clouds and meshes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from plyfile import PlyData, PlyElementParseError, PlyParseError

HEADER_BYTES = 1 << 16  # more than any header of ours
LIST_LENGTHS = {"face": {"vertex_indices": 3, "vertex_index": 3}}  # of COLMAP's meshes


def num_vertices(path: Path) -> int:
    """Number of points in a binary PLY file.

    Raises:
        ValueError: if it is missing or cut short.
    """
    return len(_vertices(path))


def read_point_cloud(path: Path) -> Float[np.ndarray, "N 3"]:
    """Points of a binary PLY file.

    Raises:
        ValueError: if it is missing or cut short.
    """
    return _stacked(_vertices(path), "x", "y", "z").astype(float)


def read_coloured_cloud(
    path: Path,
) -> tuple[Float[np.ndarray, "N 3"], UInt8[np.ndarray, "N 3"]]:
    """Points of a binary PLY file and their colours, 0 to 255.

    Raises:
        ValueError: if it is missing, cut short or has no colours.
    """
    found = _vertices(path)
    if "red" not in (found.dtype.names or ()):
        raise ValueError(f"{path}: its points have no colours; fuse again.")
    return _stacked(found, "x", "y", "z").astype(float), _stacked(found, "red", "green", "blue")


def _stacked(vertices: np.ndarray, *properties: str) -> np.ndarray:
    return np.stack([vertices[name] for name in properties], axis=1)


def _vertices(path: Path) -> np.ndarray:
    """Vertices as they are stored, mapped from the file."""
    try:
        _check_header(path)
        found = PlyData.read(str(path), known_list_len=LIST_LENGTHS)["vertex"].data
        if not {"x", "y", "z"} <= set(found.dtype.names):
            raise ValueError("its points have no coordinates")
        return found
    except PlyElementParseError as error:
        raise ValueError(f"{path}: is cut short; fuse again.") from error
    except (OSError, ValueError, KeyError, PlyParseError) as error:
        raise ValueError(f"{path}: is missing or not a binary PLY file; fuse again.") from error


def _check_header(path: Path) -> None:
    """Raise ValueError for a header that asks for anything but rows of a known size.

    Rows of a known size are mapped, and counts that the file does not hold are refused; for others
    memory would be taken before anything is read.
    """
    with path.open("rb") as file:
        lines = [line.split() for line in file.read(HEADER_BYTES).splitlines()]
    if [b"end_header"] not in lines:
        raise ValueError("the header has no end")
    lines = lines[: lines.index([b"end_header"]) + 1]
    lists = {words[-1].decode() for words in lines if words[:2] == [b"property", b"list"]}
    if [b"format", b"ascii", b"1.0"] in lines or not lists <= set(LIST_LENGTHS["face"]):
        raise ValueError("its rows have no known size")
    for words, after in pairwise(lines):
        if words[:1] == [b"element"] and (after[:1] != [b"property"] or int(words[-1]) < 0):
            raise ValueError("an element has no properties or no number")  # ends the process
