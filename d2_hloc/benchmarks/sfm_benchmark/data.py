"""Scenes and files of the Local Feature Evaluation Benchmark (Schoenberger et al., CVPR 2017).

A scene is a folder with images/ and, as published, database.db, which names the images and gives
cameras. The database is opened as a copy: COLMAP migrates old ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2_hloc.core.listing import list_images
from d2_hloc.core.pixels import to_colmap
from d2_hloc.files import features_h5
from d2_hloc.files.atomic import write_whole
from d2_hloc.files.colmap import opened_copy, pycolmap
from d2_hloc.matching.pairs import Pair


class LfeError(ValueError):
    """A scene that cannot be used; the text names it."""


@dataclass(frozen=True, kw_only=True)
class PhotoCollection:
    """Images to reconstruct, and the cameras whose focal lengths the benchmark knows."""

    name: str
    images: Path
    names: Sequence[str]
    cameras: Mapping[str, pycolmap.Camera]


def read_photo_collection(folder: Path) -> PhotoCollection:
    """Find a scene's images: those of its database, or all where it has none.

    Raises:
        LfeError: if there is no folder of images.
    """
    images, database = folder / "images", folder / "database.db"
    if not images.is_dir():
        raise LfeError(f"{folder}: holds no folder images/; give the folder of a scene.")
    names, cameras = read_database(database) if database.is_file() else (list_images(images), {})
    return PhotoCollection(name=folder.resolve().name, images=images, names=names, cameras=cameras)


def read_database(path: Path) -> tuple[list[str], dict[str, pycolmap.Camera]]:
    """Read the names of a database's images, and the cameras whose focal length is known."""
    with opened_copy(path) as database:
        images = database.read_all_images()
        found = {i.name: database.read_camera(i.camera_id) for i in images}
    return sorted(found), {n: c for n, c in found.items() if c.has_prior_focal_length}


def export_features(folder: Path, features: Path, names: Sequence[str]) -> None:
    """Write the benchmark's files of keypoints and descriptors, as its importers read them.

    keypoints/<name>.bin holds int32 N and 4, then float32 x, y, scale, orientation, pixel centres
    at half-integers; descriptors/<name>.bin holds int32 N and D, then float32.
    """
    with features_h5.open_h5(features) as file:
        for name in names:
            found = features_h5.features_of(file, name)
            xy = to_colmap(found.keypoints.numpy())
            rest = np.stack([found.scales.numpy(), np.zeros(len(found))], axis=1)
            _write(folder / "keypoints" / f"{name}.bin", np.hstack([xy, rest]), np.float32)
            descriptors = found.descriptors.float().numpy()
            _write(folder / "descriptors" / f"{name}.bin", descriptors, np.float32)


def export_matches(folder: Path, matches: Path, pairs: Sequence[Pair]) -> None:
    """Write the benchmark's files matches/A---B.bin: int32 K and 2, then uint32 indices."""
    with features_h5.open_h5(matches) as file:
        for name0, name1 in pairs:
            found = features_h5.matches_of(file, name0, name1).pairs.numpy()
            path = folder / "matches" / f"{_flat(name0)}---{_flat(name1)}.bin"
            _write(path, found, np.uint32)


def _flat(name: str) -> str:
    return name.replace("/", "-")


def _write(path: Path, table: np.ndarray, dtype: type) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = np.array(table.shape, dtype=np.int32)
    write_whole(path, header.tobytes() + np.ascontiguousarray(table, dtype=dtype).tobytes())
