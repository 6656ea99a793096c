"""COLMAP's model files in text: are they whole?

COLMAP reads as many lines as there are and says nothing of those that are not. The comments at the
head of each file tell how many there should be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from d2_hloc.core.text import read_text
from d2_hloc.files.colmap_checks import Damaged

COUNT = re.compile(r"#\s*Number of (\w+):\s*(\d+)")
FILES = {"cameras.txt": "cameras", "images.txt": "images", "points3D.txt": "points"}


def check_text_model(folder: Path, needs_points: bool = True) -> None:
    """Compare the files of a model with what they say of themselves.

    Args:
        folder: holds cameras.txt, images.txt and points3D.txt.
        needs_points: whether points3D.txt has to be there.

    Raises:
        Damaged: for the first file that is missing, or does not hold what it says.
    """
    for name, what in FILES.items():
        path = folder / name
        if path.is_file():
            _check_count(path, what, read_text(path))
        elif needs_points or name != "points3D.txt":
            raise Damaged(f"{path}: there is no such file; give the folder of a COLMAP model.")


def _check_count(path: Path, what: str, text: str) -> None:
    lines = text.split("\n")  # as COLMAP does
    said = [int(m[2]) for m in map(COUNT.match, lines) if m and m[1] == what]
    found = sum(1 for _ in (_images(path, lines) if what == "images" else _records(lines)))
    if said and said[0] != found:
        raise Damaged(
            f"{path}: says {said[0]} {what} and holds {found}, it may be cut short; get it anew."
        )


def _records(lines: list[str]) -> Iterator[str]:
    return (line for line in lines if line.strip() and not line.startswith("#"))


def _images(path: Path, lines: list[str]) -> Iterator[str]:
    """Yield the first of each image's two lines; the second, its points, may be empty."""
    numbered = iter(enumerate(lines, 1))
    for _, line in numbered:
        if not line.strip() or line.startswith("#"):
            continue
        number, points = next(numbered, (len(lines), ""))
        if not _are_points(points.split()):
            raise Damaged(
                f"{path}, line {number}: should hold the points of the image before it, 'X Y ID' "
                "each, or nothing; it is cut short, or blank lines were taken out of it."
            )
        yield line


def _are_points(fields: list[str]) -> bool:
    """Whether fields are places and ids of points, judged by their number and the last ones."""
    if len(fields) % 3:
        return False
    return all(re.fullmatch(r"-?\d+", field) for field in fields[-1:])


def without_points(folder: Path, target: Path) -> None:
    """Write the model's cameras and poses to another folder, and no points."""
    for path in folder.glob("*.txt"):
        if path.name not in ("images.txt", "points3D.txt"):
            (target / path.name).write_bytes(path.read_bytes())
    lines = _images(folder / "images.txt", read_text(folder / "images.txt").split("\n"))
    (target / "images.txt").write_text("".join(f"{line}\n\n" for line in lines))
    (target / "points3D.txt").write_text("")
