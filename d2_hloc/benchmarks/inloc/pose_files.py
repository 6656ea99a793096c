"""Poses of InLoc's queries, stored as they come; and as text, ImgList and CSV, for others."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2_hloc.benchmarks.inloc.data import short_name
from d2_hloc.benchmarks.inloc.lists import ImgList, ListedPose, write_list
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.provenance import ConfigurationChanged, differences
from d2_hloc.sfm.poses_file import write_poses

SAVE_SECONDS = 2.0  # at most this much work is lost to a kill

Numbers = tuple[float, ...]  # qw qx qy qz tx ty tz


@dataclass(frozen=True, kw_only=True)
class RankedPose:
    """A pose that a cutout led to, building to camera, or None."""

    cutout: str
    pose: Numbers | None
    num_matches: int  # with a point
    num_inliers: int
    score: float  # what the cutout was ranked by

    @property
    def cam_from_world(self) -> pycolmap.Rigid3d | None:
        if self.pose is None:
            return None
        qw, qx, qy, qz, *translation = self.pose
        return pycolmap.Rigid3d(pycolmap.Rotation3d([qx, qy, qz, qw]), translation)


@dataclass(frozen=True, kw_only=True)
class QueryPoses:
    """What became of one query: poses, best first, or the reason why there is none."""

    name: str
    poses: tuple[RankedPose, ...] = ()
    seconds: float = 0.0
    reason: str = ""

    @property
    def best(self) -> RankedPose | None:
        """The pose that the query gets, if any."""
        return self.poses[0] if self.poses and self.poses[0].pose else None


def pose_numbers(pose: pycolmap.Rigid3d) -> Numbers:
    """qw qx qy qz tx ty tz."""
    x, y, z, w = pose.rotation.quat
    return tuple(float(n) for n in (w, x, y, z, *pose.translation))


def digest(values: Any) -> str:
    """What tells long inputs from others: SHA-256 of their JSON."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


class PoseStore:
    """A file of poses in the making: whole at any time, a few seconds behind at most.

    Raises:
        ConfigurationChanged: if the file was made with another configuration.
        ValueError: if it is damaged.
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any]) -> None:
        self._path, self._since = path, time.monotonic()
        self._configuration = json.loads(json.dumps(configuration))
        self.found: dict[str, QueryPoses] = {}
        if path.is_file():
            self._read()

    def _read(self) -> None:
        try:
            content = json.loads(self._path.read_text())
            there, now = differences(content["configuration"], self._configuration)
            found = [_query_poses(values) for values in content["queries"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._path}: is damaged; delete it and run again.") from error
        if there != now:
            raise ConfigurationChanged(
                f"{self._path}: was made with another configuration of {', '.join(sorted(now))}; "
                "choose another output, or delete it."
            )
        self.found = {poses.name: poses for poses in found}

    def add(self, poses: QueryPoses) -> None:
        """Keep what became of a query."""
        self.found[poses.name] = poses
        if time.monotonic() - self._since > SAVE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        queries = [asdict(poses) for poses in self.found.values()]
        content = {"configuration": self._configuration, "queries": queries}
        write_atomically(self._path, json.dumps(content).encode())
        self._since = time.monotonic()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Write at the end, and also when the work in between is stopped."""
        try:
            yield
        finally:
            self.write()


def _query_poses(values: dict[str, Any]) -> QueryPoses:
    poses = [
        RankedPose(**{**pose, "pose": tuple(pose["pose"]) if pose["pose"] else None})
        for pose in values["poses"]
    ]
    return QueryPoses(**{**values, "poses": tuple(poses)})


def best_poses(found: Sequence[QueryPoses]) -> dict[str, pycolmap.Rigid3d]:
    """The poses of those that have one, by the query's short name."""
    return {short_name(q.name): q.best.cam_from_world for q in found if q.best is not None}


def write_found(folder: Path, found: Sequence[QueryPoses]) -> None:
    """Write poses.txt (`name qw qx qy qz tx ty tz`), ImgList.mat and queries.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    write_poses(folder / "poses.txt", best_poses(found))
    write_list(folder / "ImgList.mat", to_list(found))
    write_queries(folder / "queries.csv", found)


def to_list(found: Sequence[QueryPoses]) -> ImgList:
    """As ImgList has it: every candidate that was placed or tried, with its score."""
    return {
        query.name: [
            ListedPose(
                cutout=pose.cutout,
                score=pose.score,
                matrix=None if pose.pose is None else pose.cam_from_world.matrix(),
            )
            for pose in query.poses
        ]
        for query in found
    }


def from_list(poses: ImgList) -> list[QueryPoses]:
    """The poses of an ImgList; inliers are not known and stand as 0."""
    return [
        QueryPoses(
            name=name,
            poses=tuple(_listed(pose) for pose in entries if pose.matrix is not None),
            reason="" if any(p.matrix is not None for p in entries) else "the list has no pose",
        )
        for name, entries in poses.items()
    ]


def _listed(pose: ListedPose) -> RankedPose:
    rotation = pycolmap.Rotation3d(np.ascontiguousarray(pose.matrix[:, :3]))
    rigid = pycolmap.Rigid3d(rotation, pose.matrix[:, 3])
    return RankedPose(
        cutout=pose.cutout,
        pose=pose_numbers(rigid),
        num_matches=0,
        num_inliers=0,
        score=pose.score,
    )


def combine(one: Sequence[QueryPoses], other: Sequence[QueryPoses]) -> list[QueryPoses]:
    """Of two methods' poses, each query's of the higher score; both are Dense PV's.

    The 'InLoc + D2 MS' of Dusmanu et al., CVPR 2019, Table 2.
    """
    seconds = {query.name: query for query in other}
    merged = []
    for query in one:
        twin = seconds.pop(query.name, query)
        scores = [q.best.score if q.best is not None else -np.inf for q in (query, twin)]
        merged.append(twin if scores[1] > scores[0] else query)
    return merged + list(seconds.values())


def write_queries(path: Path, found: Sequence[QueryPoses]) -> None:
    """A line a query: its best cutout, matches, inliers, score, and why there is no pose."""
    text = io.StringIO()
    columns = ["name", "localized", "cutout", "matches", "inliers", "score", "seconds", "reason"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for query in found:
        writer.writerow(query_row(query))
    write_atomically(path, text.getvalue().encode())


def query_row(query: QueryPoses) -> dict[str, Any]:
    """A query's line."""
    first = query.poses[0] if query.poses else None
    return {
        "name": short_name(query.name),
        "localized": query.best is not None,
        "cutout": "" if first is None else short_name(first.cutout),
        "matches": 0 if first is None else first.num_matches,
        "inliers": 0 if first is None else first.num_inliers,
        "score": "" if first is None else round(first.score, 4),
        "seconds": query.seconds,
        "reason": query.reason,
    }
