"""Aachen Day-Night (Sattler et al., CVPR 2018), v1 and v1.1, as its authors and hloc lay it out.

Nothing in the data set's folder is ever written: COLMAP migrates an old database that it opens, so
a copy is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2_hloc.benchmarks.aachen.nvm import read_nvm_poses
from d2_hloc.files.colmap import opened_copy, pycolmap
from d2_hloc.matching import pairs
from d2_hloc.matching.pairs import Pair
from d2_hloc.sfm.cameras.intrinsics import read_intrinsics


class AachenError(ValueError):
    """A data set that cannot be used; the text names what is missing."""


@dataclass(frozen=True, kw_only=True)
class AachenFiles:
    """Paths relative to the data set; of several places the first that is there.

    `database` names the images; without it, the intrinsics and the pairs do.

    Attributes:
        images: folder of the images.
        model: the model with the poses of the database images, NVM.
        intrinsics: lists of the database images' cameras.
        database: COLMAP's database, which names the images.
        pairs: the list of pairs to match.
        queries: lists of the queries with their intrinsics; all of them.
    """

    images: tuple[str, ...] = ("images/images_upright", "images_upright")
    model: tuple[str, ...] = ("3D-models/aachen_cvpr2018_db.nvm",)
    intrinsics: tuple[str, ...] = ("3D-models/database_intrinsics.txt",)
    database: tuple[str, ...] = ("database.db", "3D-models/aachen.db", "aachen.db")
    pairs: tuple[str, ...] = ("image_pairs_to_match.txt",)
    queries: tuple[str, ...] = ("queries/night_time_queries_with_intrinsics.txt",)  # all of them


@dataclass(frozen=True, kw_only=True)
class AachenData:
    """Database images with poses, queries with intrinsics, and pairs to match."""

    images: Path
    names: Sequence[str]  # database images and queries
    cameras: Mapping[str, pycolmap.Camera]
    poses: Mapping[str, pycolmap.Rigid3d]  # world to camera, of database images
    queries: Sequence[str]
    pairs: Sequence[Pair]  # each once, in whichever order
    missing: Sequence[str]  # what a run needs and is not there

    @property
    def without_pose(self) -> list[str]:
        """Database images that the model does not hold; they are matched and not used."""
        queries = set(self.queries)
        return [n for n in self.names if n not in self.poses and n not in queries]

    def reference(self) -> pycolmap.Reconstruction:
        """Make a model of the database images' cameras and poses, without points."""
        model = pycolmap.Reconstruction()
        for k, name in enumerate(sorted(self.poses), 1):
            if name in self.cameras:
                camera = pycolmap.Camera(self.cameras[name].todict() | {"camera_id": k})
                model.add_camera_with_trivial_rig(camera)
                image = pycolmap.Image(name=name, camera_id=k, image_id=k)
                model.add_image_with_trivial_frame(image, self.poses[name])
        return model

    def query_pairs(self) -> dict[str, list[str]]:
        """Group the database images that each query is listed with, in the list's order."""
        listed = by_query(self.pairs, frozenset(self.queries))
        return {name: listed.get(name, []) for name in self.queries}


def query_first(pairs: Sequence[Pair], queries: frozenset[str]) -> list[Pair]:
    """Choose the pairs of a query with a database image, and put them into that order."""
    ordered = [pair if pair[0] in queries else pair[::-1] for pair in pairs]
    return [(query, image) for query, image in ordered if query in queries and image not in queries]


def by_query(pairs: Sequence[Pair], queries: frozenset[str]) -> dict[str, list[str]]:
    """Group the database images of each query that has some, in the list's order."""
    found: dict[str, list[str]] = {}
    for query, image in query_first(pairs, queries):
        found.setdefault(query, []).append(image)
    return found


def read_aachen(files: AachenFiles, dataset: Path) -> AachenData:
    """Read the whole data set.

    Raises:
        AachenError: naming everything that a run needs and that is not there.
        ValueError: for a file that cannot be read, by name and line.
    """
    data = survey_aachen(files, dataset)
    if data.missing:
        raise AachenError(f"{dataset}: is not complete; missing are {', '.join(data.missing)}.")
    return data


def survey_aachen(files: AachenFiles, dataset: Path) -> AachenData:
    """Read as much of the data set as is there; `missing` says what is not."""
    missing: list[str] = []

    def find(places: Sequence[str], what: str) -> Path | None:
        found = [dataset / place for place in places if (dataset / place).exists()]
        if not found:
            missing.append(f"{what} ({' or '.join(places)})")
        return found[0] if found else None

    images = find(files.images, "the images")
    model = find(files.model, "the database images' poses")
    intrinsics = find(files.intrinsics, "the database images' intrinsics")
    listed = find(files.pairs, "the pairs to match")
    queries = [find((place,), "a list of queries") for place in files.queries]
    databases = [dataset / p for p in files.database if (dataset / p).is_file()]
    cameras = read_intrinsics(intrinsics) if intrinsics else {}
    query_cameras = {n: c for path in queries if path for n, c in read_intrinsics(path).items()}
    names = database_names(databases[0]) if databases else []
    return AachenData(
        images=images or dataset / files.images[0],
        names=list(dict.fromkeys([*names, *cameras, *query_cameras])),
        cameras=cameras | query_cameras,
        poses=read_nvm_poses(model) if model else {},
        queries=list(query_cameras) or [n for n in names if n.startswith("query/night/")],
        pairs=pairs.unique(pairs.read_pairs(listed)) if listed else [],
        missing=missing,
    )


def database_names(path: Path) -> list[str]:
    """Read the names of the images of a COLMAP database of any age, by their ids."""
    with opened_copy(path) as database:
        return [i.name for i in sorted(database.read_all_images(), key=lambda i: i.image_id)]
