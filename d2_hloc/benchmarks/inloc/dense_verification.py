"""Poses of InLoc's queries -> the same, reranked by Dense PV (a step); and each method by name."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from d2_hloc.benchmarks.inloc.data import InLoc
from d2_hloc.benchmarks.inloc.pose_files import PoseStore, QueryPoses, RankedPose, digest
from d2_hloc.benchmarks.inloc.poses import Setting, pose_queries
from d2_hloc.benchmarks.inloc.rendering import (
    CloudCache,
    DenseOptions,
    View,
    dense_score,
    read_reduced,
    render,
)
from d2_hloc.core import config
from d2_hloc.core.images import ImageError
from d2_hloc.core.pixels import from_colmap
from d2_hloc.core.threads import in_threads
from d2_hloc.files.colmap import pycolmap

METHODS = ("direct", "sparse", "sparse+pv", "pooled")


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """What Dense PV needs beside a pose."""

    options: DenseOptions
    data: InLoc
    cameras: Mapping[str, pycolmap.Camera]
    clouds: CloudCache

    def view(self, query: str, pose: RankedPose) -> View:
        """The query's camera at that pose, at the size that images are compared at."""
        camera = self.cameras[query]
        x, y = from_colmap(np.array([camera.principal_point_x, camera.principal_point_y]))
        return View(
            size=(camera.width, camera.height),
            focal=camera.mean_focal_length(),
            principal_point=(float(x), float(y)),
            rotation=pose.cam_from_world.rotation.matrix(),
            translation=np.array(pose.cam_from_world.translation),
        ).reduced(self.options.longest_edge)

    def render(
        self, query: str, pose: RankedPose
    ) -> tuple[Float[Tensor, "3 H W"], Bool[Tensor, "H W"]]:
        """What the scan looks like from a pose, and where it was rendered.

        Raises:
            ValueError: if no points of the scan can be read.
        """
        return render(self.clouds[pose.cutout], self.view(query, pose))

    def score(self, query: str, image: Tensor, pose: RankedPose) -> float:
        """How well a pose explains the query's reduced image; 0 for none."""
        if pose.pose is None:
            return 0.0
        try:
            rendered, mask = self.render(query, pose)
        except ValueError:  # without points there is nothing to see
            return 0.0
        return dense_score(image.to(mask.device), rendered, mask, self.options.min_coverage)


def find_poses(method: str, setting: Setting, verifier: Verifier, folder: Path) -> list[QueryPoses]:
    """Poses by a method, as pose_queries; '<method>+pv' has them reranked by Dense PV.

    What each of the two finds is kept in `folder`, as <method>.json.
    """
    first, *rest = method.split("+")
    found = pose_queries(first, setting, folder / f"{first}.json")
    if not rest:
        return found
    return verify_poses(verifier, found, folder / f"{method}.json", setting.workers)


def verify_poses(
    verifier: Verifier, found: Sequence[QueryPoses], output: Path, workers: int = 1
) -> list[QueryPoses]:
    """Score the best poses of each query and put them into that order, into `output`.

    Queries that are done are left alone; each is stored as it comes.

    Raises:
        ConfigurationChanged: if `output` was made with another configuration.
    """
    poses = [[query.name, *(p.pose for p in query.poses)] for query in found]
    made_by = {"dense": config.to_dict(verifier.options), "poses": digest(poses)}
    store = PoseStore(output, made_by)
    todo = [query for query in found if query.name not in store.found]
    with store.saving():
        reranked = in_threads(partial(rerank, verifier), todo, workers)
        progress = tqdm(reranked, desc="dense PV", unit="query", total=len(todo), disable=not todo)
        for query in progress:
            store.add(query)
    return [store.found[query.name] for query in found]


def rerank(verifier: Verifier, query: QueryPoses) -> QueryPoses:
    """One query's poses by their scores, best first; ones without a pose come last."""
    if query.best is None:
        return query
    start = time.perf_counter()
    try:
        size = verifier.view(query.name, query.best).size
        image = read_reduced(verifier.data.folder / query.name, size)
    except ImageError as error:
        return replace(query, poses=(), reason=str(error))
    with torch.inference_mode():
        scored = [
            replace(pose, score=verifier.score(query.name, image, pose))
            for pose in query.poses[: verifier.options.num_poses]
        ]
    ordered = sorted(scored, key=lambda p: (p.pose is None, -p.score))
    seconds = round(query.seconds + time.perf_counter() - start, 3)
    return replace(query, poses=tuple(ordered), seconds=seconds)
