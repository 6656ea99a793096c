"""Look up the 3D point of each keypoint of InLoc's cutouts (a step).

A map of points is megabytes and is read in a second; the points of its keypoints are kept instead.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from d2_hloc.benchmarks.inloc import data as inloc
from d2_hloc.benchmarks.inloc.data import InLocError
from d2_hloc.benchmarks.inloc.lists import Ranked
from d2_hloc.benchmarks.inloc.scans import MapCache, points_at
from d2_hloc.core.threads import in_threads
from d2_hloc.features.extracted import Extracted
from d2_hloc.files import features_h5
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.files.staged_h5 import Staged, Value

logger = logging.getLogger(__name__)

MADE_FROM = "features_crc32"  # attribute of points: digest of the keypoints that they are of


@dataclass(frozen=True, kw_only=True)
class LiftedPoints:
    """Points of cutouts in a file; `failures` are the reasons why others have none, by name."""

    path: Path
    cutouts: frozenset[str]
    failures: Mapping[str, str]


def lift(
    folder: Path,
    ranked: Ranked,
    features: Extracted,
    output: Path,
    maps: MapCache,
    workers: int = 1,
) -> LiftedPoints:
    """Look up the points of the ranked cutouts' keypoints, in the building's frame.

    Cutouts that are done stay as they are, unless their features changed. Ones that cannot be used
    are noted with the reason: a damaged or missing map, one without depth, a missing alignment.

    Raises:
        StorageError: if the features file cannot be used.
        ConfigurationChanged, DiskFull: as staged_h5.Staged.
    """
    made_by = {"features": features_h5.read_configuration(features.path)}
    cutouts = {c.cutout for found in ranked.values() for c in found}
    names = [name for name in features.names if name in cutouts]
    with Staged(output, made_by, "points") as staged, features_h5.open_h5(features.path) as file:
        digests = features_h5.image_digests(file, names)

        def is_stale(points: GuardedFile, name: str) -> bool:
            made_from = points[name]["points"].attrs.get(MADE_FROM)
            return made_from is not None and int(made_from) != digests.get(name, made_from)

        staged.drop(is_stale)
        todo = [name for name in names if name not in staged.done]
        found = in_threads(partial(_try, folder, file, maps), todo, workers)
        progress = tqdm(
            found, desc="look up points", unit="cutout", total=len(todo), disable=not todo
        )
        for name, points in zip(todo, progress, strict=True):
            if isinstance(points, str):
                staged.failures[name] = points
            else:
                staged.add(name, {"points": Value(points, {MADE_FROM: digests[name]})})
        for name, reason in staged.failures.items():
            logger.warning("skipped %s: %s", name, reason)
    return LiftedPoints(
        path=output, cutouts=frozenset(staged.done), failures=dict(sorted(staged.failures.items()))
    )


def _try(folder: Path, features: GuardedFile, maps: MapCache, name: str) -> np.ndarray | str:
    """Find the points, or say why there are none."""
    try:
        return keypoint_points(folder, features, maps, name)
    except InLocError as error:
        return str(error)


def keypoint_points(
    folder: Path, features: GuardedFile, maps: MapCache, name: str
) -> Float[np.ndarray, "N 3"]:
    """Points of a cutout's keypoints, metres in the building's frame; NaN where there is none.

    Raises:
        InLocError: if the cutout's map or alignment cannot be used.
    """
    path = folder / f"{name}.mat"
    xyz = maps[path].xyz
    width, height = features_h5.image_size_of(features, name)
    if xyz.shape[:2] != (height, width):
        raise InLocError(
            f"{path}: holds points of {xyz.shape[1]} x {xyz.shape[0]} pixels, but the cutout has "
            f"{width} x {height}."
        )
    building_from_scan = inloc.read_alignment(folder, name)
    points = points_at(xyz, features_h5.keypoints_of(features, name).astype(float))
    return points @ building_from_scan[:3, :3].T + building_from_scan[:3, 3]
