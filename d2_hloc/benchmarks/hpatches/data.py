"""HPatches' full sequences: a folder each, of images 1, 2, ... and homographies H_1_2, H_1_3, ...

As published there are six images in each of 116 sequences (Balntas et al., "HPatches", CVPR 2017),
of which the evaluation of local features leaves out eight of very large images (Dusmanu et al.,
CVPR 2019, Section 5.1). Any folder of that layout is read, with fewer images and other formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from d2_hloc.core.listing import EXTENSIONS
from d2_hloc.matching.pairs import Pair

LEFT_OUT = frozenset(
    {
        "i_contruction",  # spelt so
        "i_crownnight",
        "i_dc",
        "i_pencils",
        "i_whitebuilding",
        "v_artisans",
        "v_astronautis",
        "v_talent",
    }
)
KINDS = {"i": "illumination", "v": "viewpoint"}  # by the first letter of a sequence


class HPatchesError(ValueError):
    """A data set that cannot be used; the text names the folder and the reason."""


@dataclass(frozen=True, kw_only=True)
class HomographyPair:
    """Two images of a sequence, named relative to the data set, and how one becomes the other."""

    sequence: str
    name0: str
    name1: str
    homography: Float[np.ndarray, "3 3"]  # pixels of image 0 -> pixels of image 1

    @property
    def names(self) -> Pair:
        return self.name0, self.name1


@dataclass(frozen=True, kw_only=True)
class HPatchesData:
    """Pairs of a folder, and the reasons why parts of it cannot be used, by name."""

    folder: Path
    pairs: Sequence[HomographyPair]
    problems: dict[str, str]
    left_out: Sequence[str]  # the sequences of LEFT_OUT that are there

    @property
    def image_names(self) -> list[str]:
        """Names of the images of all pairs, sequence by sequence."""
        return list(dict.fromkeys(name for pair in self.pairs for name in pair.names))


def kind_of(sequence: str) -> str:
    """Kind of change in a sequence: 'illumination' or 'viewpoint'."""
    return KINDS[sequence[0]]


def read_hpatches(folder: Path) -> HPatchesData:
    """Find the pairs of a data set, and whatever is wrong with it.

    Raises:
        HPatchesError: if the folder is missing or holds no pair that can be used.
    """
    if not folder.is_dir():
        raise HPatchesError(f"{folder}: there is no such folder.")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir())
    found = [name for name in names if name[:2] in ("i_", "v_")]
    problems = {n: "is not named i_... or v_..." for n in names if n not in found}
    pairs = []
    for name in found:
        if name not in LEFT_OUT:
            pairs += _read_sequence(folder, name, problems)
    if not pairs:
        raise HPatchesError(
            f"{folder}: holds no sequence of HPatches: folders i_... or v_... with images 1, 2, "
            "... and homographies H_1_2, H_1_3, ..."
        )
    left_out = [name for name in found if name in LEFT_OUT]
    return HPatchesData(folder=folder, pairs=pairs, problems=problems, left_out=left_out)


def _read_sequence(folder: Path, name: str, problems: dict[str, str]) -> list[HomographyPair]:
    """Pair image 1 with each other; numbers that lack image or homography become problems."""
    images = _numbered_images(folder / name)
    homographies = {
        int(path.name[4:]): path
        for path in (folder / name).glob("H_1_*")
        if path.name[4:].isdecimal()
    }
    numbers = range(2, max([1, *images, *homographies]) + 1)
    if 1 not in images or not numbers:
        problems[name] = "has no image 1" if 1 not in images else "has no image but the first"
        return []
    pairs = []
    for k in numbers:
        where = f"{name}/{images[k]}" if k in images else f"{name}/{k}"
        if k not in images:
            problems[where] = f"there is no image {k}"
        elif k not in homographies:
            problems[where] = f"there is no homography H_1_{k}"
        else:
            matrix = _read_homography(homographies[k])
            if isinstance(matrix, str):
                problems[f"{name}/H_1_{k}"] = matrix
                continue
            names = f"{name}/{images[1]}", where
            pairs.append(
                HomographyPair(sequence=name, name0=names[0], name1=names[1], homography=matrix)
            )
    return pairs


def _numbered_images(folder: Path) -> dict[int, str]:
    """Find file names by number; of several formats the published one, .ppm, is taken."""
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in EXTENSIONS and path.stem.isdecimal() and int(path.stem) > 0
    ]
    files.sort(key=lambda path: (path.suffix.lower() == ".ppm", path.name))
    return {int(path.stem): path.name for path in files}


def _read_homography(path: Path) -> Float[np.ndarray, "3 3"] | str:
    """Read the matrix (3, 3), or say what is wrong with it."""
    try:
        matrix = np.loadtxt(path, dtype=float, ndmin=2)
    except (OSError, ValueError) as error:
        return f"cannot be read as numbers ({' '.join(str(error).split())})"
    if matrix.shape != (3, 3):
        return f"holds {' x '.join(map(str, matrix.shape))} numbers, not 3 x 3"
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        return "is not a homography: it cannot be undone"
    return matrix
