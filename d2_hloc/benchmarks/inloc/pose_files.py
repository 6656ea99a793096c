"""Poses of InLoc's queries, stored as they come; and as text, ImgList and CSV, for others."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from d2_hloc.benchmarks.inloc.data import short_name
from d2_hloc.benchmarks.inloc.lists import ImgList, ListedPose, write_list
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.result_store import ResultStore
from d2_hloc.sfm.poses_file import write_poses

Numbers = tuple[float, ...]  # qw qx qy qz tx ty tz


@dataclass(frozen=True, kw_only=True)
class RankedPose:
    """Pose that a cutout led to, building to camera, or None."""

    cutout: str
    pose: Numbers | None
    num_matches: int  # with a point
    num_inliers: int
    score: float  # what the cutout was ranked by

    @property
    def cam_from_world(self) -> pycolmap.Rigid3d:
        """The pose.

        Raises:
            ValueError: if there is none.
        """
        if self.pose is None:
            raise ValueError(f"{self.cutout}: led to no pose.")
        qw, qx, qy, qz, *translation = self.pose
        return pycolmap.Rigid3d(pycolmap.Rotation3d([qx, qy, qz, qw]), translation)


@dataclass(frozen=True, kw_only=True)
class QueryPoses:
    """Poses of one query, best first, or the reason why there is none."""

    name: str
    poses: tuple[RankedPose, ...] = ()
    seconds: float = 0.0
    reason: str = ""

    @property
    def best(self) -> RankedPose | None:
        """Pose that the query gets, if any."""
        return self.poses[0] if self.poses and self.poses[0].pose else None


def pose_numbers(pose: pycolmap.Rigid3d) -> Numbers:
    """Write a pose as qw qx qy qz tx ty tz."""
    x, y, z, w = pose.rotation.quat
    return tuple(float(n) for n in (w, x, y, z, *pose.translation))


def query_store(
    path: Path, configuration: Mapping[str, Any], made_from: Sequence[int | str] = ()
) -> ResultStore[QueryPoses]:
    """Open a file of the poses of queries in the making; those made from others are made again.

    Raises:
        ConfigurationChanged: if it was made with another configuration.
        ValueError: if it is damaged.
    """
    key_of = attrgetter("name")
    return ResultStore(path, configuration, QueryPoses, key_of, "queries", made_from)


def best_poses(found: Sequence[QueryPoses]) -> dict[str, pycolmap.Rigid3d]:
    """Poses of the queries that have one, by short name."""
    return {short_name(q.name): q.best.cam_from_world for q in found if q.best is not None}


def write_found(outputs: Outputs, found: Sequence[QueryPoses]) -> None:
    """Write poses (`name qw qx qy qz tx ty tz`), ImgList and a table of the queries."""
    outputs.folder.mkdir(parents=True, exist_ok=True)
    write_poses(outputs.poses, best_poses(found))
    write_list(outputs.pose_list, to_list(found))
    write_queries(outputs.queries_table, found)


def to_list(found: Sequence[QueryPoses]) -> ImgList:
    """List every candidate that was tried, with its score, as ImgList has it."""
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
    """Take the poses of an ImgList; inliers are not known and stand as 0."""
    return [
        QueryPoses(
            name=name,
            poses=tuple(_listed(p, p.matrix) for p in entries if p.matrix is not None),
            reason="" if any(p.matrix is not None for p in entries) else "the list has no pose",
        )
        for name, entries in poses.items()
    ]


def _listed(pose: ListedPose, matrix: np.ndarray) -> RankedPose:
    rotation = pycolmap.Rotation3d(np.ascontiguousarray(matrix[:, :3]))
    rigid = pycolmap.Rigid3d(rotation, matrix[:, 3])
    return RankedPose(
        cutout=pose.cutout,
        pose=pose_numbers(rigid),
        num_matches=0,
        num_inliers=0,
        score=pose.score,
    )


def combine(one: Sequence[QueryPoses], other: Sequence[QueryPoses]) -> list[QueryPoses]:
    """Give each query the pose of the higher score, of two methods that both end in Dense PV.

    This is 'InLoc + D2 MS' of Dusmanu et al., CVPR 2019, Table 2.
    """
    seconds = {query.name: query for query in other}
    merged = []
    for query in one:
        twin = seconds.pop(query.name, query)
        scores = [q.best.score if q.best is not None else -np.inf for q in (query, twin)]
        merged.append(twin if scores[1] > scores[0] else query)
    return merged + list(seconds.values())


def write_queries(path: Path, found: Sequence[QueryPoses]) -> None:
    """Write each query's best cutout, matches, inliers, score, and why there is no pose."""
    text = io.StringIO()
    columns = ["name", "localized", "cutout", "matches", "inliers", "score", "seconds", "reason"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for query in found:
        writer.writerow(query_row(query))
    write_atomically(path, text.getvalue().encode())


def query_row(query: QueryPoses) -> dict[str, Any]:
    """Row of a query in a table, by column."""
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
