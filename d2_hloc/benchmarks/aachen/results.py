"""Files that Aachen's evaluation takes, ground truth, and published results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.pnp import Localized
from d2_hloc.sfm.poses_file import read_poses, write_poses

# hloc's README: night queries within (0.25 m, 2 deg), (0.5 m, 5 deg), (5 m, 10 deg), in percent.
# The D2-Net paper shows its own, Figure 5, as a plot only.
PUBLISHED = {
    "D2-Net SS + NN, NetVLAD top 30 (hloc)": (83.7, 90.8, 100.0),
    "SuperPoint + NN, NetVLAD top 30 (hloc)": (75.5, 86.7, 92.9),
    "SuperPoint + SuperGlue, NetVLAD top 50 (hloc)": (86.7, 93.9, 100.0),
}


def write_submission(path: Path, found: Sequence[Localized]) -> Path:
    """Write `basename qw qx qy qz tx ty tz` of each query, world to camera."""
    placed = {Path(r.name).name: r.cam_from_world for r in found if r.cam_from_world is not None}
    write_poses(path, placed)
    return path


def read_truth(path: Path, queries: Sequence[str]) -> dict[str, pycolmap.Rigid3d]:
    """Read ground truth by the queries' names, which it may give whole or without folders."""
    known = read_poses(path)
    found = {name: known.get(name, known.get(Path(name).name)) for name in queries}
    return {name: pose for name, pose in found.items() if pose is not None}


def with_fallback(
    found: Sequence[Localized],
    listed: Mapping[str, Sequence[str]],
    poses: Mapping[str, pycolmap.Rigid3d],
) -> list[Localized]:
    """Give a query without a pose that of the first database image it is listed with."""
    placed = []
    for result in found:
        near = [name for name in listed.get(result.name, ()) if name in poses]
        if result.cam_from_world is None and near:
            reason = f"{result.reason}; given the pose of {near[0]}"
            result = dataclasses.replace(result, cam_from_world=poses[near[0]], reason=reason)
        placed.append(result)
    return placed
