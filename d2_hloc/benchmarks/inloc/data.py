"""InLoc's layout: cutouts of indoor scans with a point a pixel, the scans' alignments, queries.

    database/cutouts/<floor>/<scan>/<building>_cutout_<scan>_<yaw>_<pitch>.jpg, and <same>.jpg.mat
    database/alignments/<floor>/transformations/<building>_trans_<scan>.txt
    query/iphone7/*.JPG

Taira et al., "InLoc", CVPR 2018. Images are named relative to the folder that holds all of this, as
hloc names them. A scan's points are in a frame of its own, which its alignment brings to the
building's; lengths are metres. scans.py reads the points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from d2_hloc.core.listing import EXTENSIONS
from d2_hloc.core.text import read_text

CUTOUTS = "database/cutouts"
ALIGNMENTS = "database/alignments"
QUERIES = "query/iphone7"
ALIGNMENT_LINES = slice(7, 11)  # the matrix after generalized ICP; before it stands a rougher one


class InLocError(ValueError):
    """A part of the data set that cannot be used; the text names the file and the reason."""


@dataclass(frozen=True, kw_only=True)
class InLocData:
    """Queries and cutouts of a folder, by sorted names relative to it."""

    folder: Path
    queries: tuple[str, ...]
    cutouts: tuple[str, ...]


def read_inloc(folder: Path) -> InLocData:
    """Find the queries and cutouts of a data set.

    Raises:
        InLocError: if the folder, its queries or its cutouts are missing.
    """
    if not folder.is_dir():
        raise InLocError(f"{folder}: there is no such folder.")
    queries, cutouts = (_images(folder, part) for part in (QUERIES, CUTOUTS))
    return InLocData(folder=folder, queries=queries, cutouts=cutouts)


def _images(folder: Path, part: str) -> tuple[str, ...]:
    names = (p.relative_to(folder) for p in (folder / part).rglob("*") if _is_image(p))
    found = tuple(sorted(name.as_posix() for name in names))
    if not found:
        raise InLocError(f"{folder / part}: holds no image; InLoc's layout has them there.")
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and path.is_file()


def short_name(name: str) -> str:
    """Shorten the name of a query or cutout to that of InLoc's own lists, without its folder."""
    path = PurePosixPath(name)
    return path.relative_to(CUTOUTS).as_posix() if is_cutout(name) else path.name


def is_cutout(name: str) -> bool:
    """Tell whether a name is that of an image of the database."""
    return name.startswith(CUTOUTS + "/")


def scan_of(cutout: str) -> str:
    """Folder of all cutouts of the same scan: 'database/cutouts/<floor>/<scan>'."""
    return PurePosixPath(cutout).parent.as_posix()


def alignment_path(folder: Path, cutout: str) -> Path:
    """Path of the alignment of a cutout's scan."""
    path = PurePosixPath(cutout)
    floor, scan = path.parts[-3:-1]
    building = path.name.split("_")[0]
    return folder / ALIGNMENTS / floor / "transformations" / f"{building}_trans_{scan}.txt"


def read_alignment(folder: Path, cutout: str) -> Float[np.ndarray, "4 4"]:
    """Read the matrix (4, 4) that brings the points of a cutout's scan to the building's frame.

    Raises:
        InLocError: if it is missing, or its lines 8 to 11 do not hold a rotation and translation.
    """
    path = alignment_path(folder, cutout)
    try:
        lines = read_text(path).splitlines()[ALIGNMENT_LINES]
    except ValueError as error:
        raise InLocError(f"there is no alignment: {error}") from error
    try:
        matrix = np.array([line.split() for line in lines], dtype=float)
    except ValueError as error:
        raise InLocError(f"{path}: lines 8 to 11 are not numbers.") from error
    if matrix.shape != (4, 4) or not _is_rigid(matrix):
        raise InLocError(f"{path}: lines 8 to 11 are not a rotation and a translation.")
    return matrix


def _is_rigid(matrix: np.ndarray) -> bool:
    rotation = matrix[:3, :3]
    is_rotation = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)
    return bool(is_rotation and np.linalg.det(rotation) > 0 and np.isfinite(matrix).all())
