"""The Local Feature Evaluation Benchmark (Schoenberger et al., CVPR 2017): scenes and its files.

A scene is a folder with images/ and, as published, database.db, which names the images and gives
cameras. The database is opened as a copy: COLMAP migrates old ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from d2_hloc.core.images import list_images
from d2_hloc.core.pixels import from_colmap, to_colmap
from d2_hloc.core.structs import Matches
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import opened_copy, pycolmap
from d2_hloc.matching.pairs import Pair


class LfeError(ValueError):
    """A scene or file that cannot be used; the text names it."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Images to reconstruct, and the cameras whose focal lengths the benchmark knows."""

    name: str
    images: Path
    names: Sequence[str]
    cameras: Mapping[str, pycolmap.Camera]


def read(folder: Path) -> Scene:
    """A scene's images: those of its database, or all where it has none.

    Raises:
        LfeError: if there is no folder of images.
    """
    images, database = folder / "images", folder / "database.db"
    if not images.is_dir():
        raise LfeError(f"{folder}: holds no folder images/; give the folder of a scene.")
    names, cameras = read_database(database) if database.is_file() else (list_images(images), {})
    return Scene(name=folder.resolve().name, images=images, names=names, cameras=cameras)


def read_database(path: Path) -> tuple[list[str], dict[str, pycolmap.Camera]]:
    """Names of a COLMAP database's images, and the cameras of those with a known focal length."""
    with opened_copy(path) as database:
        images = database.read_all_images()
        found = {i.name: database.read_camera(i.camera_id) for i in images}
    return sorted(found), {n: c for n, c in found.items() if c.has_prior_focal_length}


def write_features(folder: Path, features: Path, names: Sequence[str]) -> None:
    """The benchmark's files: <name>.bin of keypoints and descriptors, as its importers read them.

    Keypoints are int32 N and 4, then float32 x, y, scale, orientation, pixel centres at
    half-integers; descriptors are int32 N and D, then float32, in descriptors/<name>.bin.
    """
    with features_h5.open_h5(features) as file:
        for name in names:
            found = features_h5.features_of(file, name)
            xy = to_colmap(found.keypoints.numpy())
            rest = np.stack([found.scales.numpy(), np.zeros(len(found))], axis=1)
            _write(folder / "keypoints" / f"{name}.bin", np.hstack([xy, rest]), np.float32)
            descriptors = found.descriptors.float().numpy()
            _write(folder / "descriptors" / f"{name}.bin", descriptors, np.float32)


def write_matches(folder: Path, matches: Path, pairs: Sequence[Pair]) -> None:
    """The benchmark's files: matches/A---B.bin, int32 K and 2, then uint32 indices."""
    with features_h5.open_h5(matches) as file:
        for name0, name1 in pairs:
            found = features_h5.matches_of(file, name0, name1).pairs.numpy()
            path = folder / "matches" / f"{_flat(name0)}---{_flat(name1)}.bin"
            _write(path, found, np.uint32)


def read_keypoints(path: Path) -> np.ndarray:
    """Keypoints (N, 2) of the benchmark's form; (0, 0) is the centre of the first pixel.

    Raises:
        LfeError: for a file that is cut short or of another form.
    """
    table = _read(path, np.float32)
    if table.shape[1] < 2:
        raise LfeError(f"{path}: its rows have {table.shape[1]} numbers, and a place needs 2.")
    return from_colmap(table[:, :2])


def read_descriptors(path: Path) -> np.ndarray:
    """Descriptors (N, D) of the benchmark's form.

    Raises:
        LfeError: as read_keypoints.
    """
    return _read(path, np.float32)


def read_matches(path: Path) -> Matches:
    """Matches of the benchmark's form, which has no scores.

    Raises:
        LfeError: as read_keypoints.
    """
    pairs = torch.from_numpy(_read(path, np.uint32).astype(np.int64))
    return Matches(pairs=pairs, scores=torch.ones(len(pairs)))


def _flat(name: str) -> str:
    return name.replace("/", "-")


def _write(path: Path, table: np.ndarray, dtype: type) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = np.array(table.shape, dtype=np.int32)
    path.write_bytes(header.tobytes() + np.ascontiguousarray(table, dtype=dtype).tobytes())


def _read(path: Path, dtype: type) -> np.ndarray:
    data = path.read_bytes()
    rows, columns = np.frombuffer(data, np.int32, 2) if len(data) >= 8 else (-1, -1)
    expected = 8 + int(rows) * int(columns) * np.dtype(dtype).itemsize
    if rows < 0 or columns < 0 or len(data) != expected:
        raise LfeError(f"{path}: is cut short or not a table of the benchmark's form.")
    return np.frombuffer(data, dtype, offset=8).reshape(int(rows), int(columns)).copy()
