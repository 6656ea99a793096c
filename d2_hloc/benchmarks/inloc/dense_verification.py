"""Rerank the poses of InLoc's queries by Dense PV (a step), and find poses by a method's name.

The score of one pose, from the rendered scan, is rendering.dense_score().
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from d2_hloc.benchmarks.inloc.data import InLocData
from d2_hloc.benchmarks.inloc.pose_files import QueryPoses, RankedPose, query_store
from d2_hloc.benchmarks.inloc.poses import Setting, pose_queries
from d2_hloc.benchmarks.inloc.rendering import (
    CloudCache,
    DensePVOptions,
    QueryView,
    dense_score,
    read_reduced,
    render_cloud,
)
from d2_hloc.core import config
from d2_hloc.core.images import ImageError
from d2_hloc.core.pixels import from_colmap
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.provenance import digest

METHODS = ("direct", "sparse", "sparse+pv", "dense", "dense+pv", "pooled")


@dataclass(frozen=True, kw_only=True)
class DenseVerifier:
    """Cameras and clouds that Dense PV renders poses with."""

    options: DensePVOptions
    data: InLocData
    cameras: Mapping[str, pycolmap.Camera]
    clouds: CloudCache

    def view(self, query: str, pose: RankedPose) -> QueryView:
        """Place the query's camera at a pose, at the size that images are compared at."""
        camera = self.cameras[query]
        x, y = from_colmap(np.array([camera.principal_point_x, camera.principal_point_y]))
        return QueryView(
            size=(camera.width, camera.height),
            focal=camera.mean_focal_length(),
            principal_point=(float(x), float(y)),
            rotation=pose.cam_from_world.rotation.matrix(),
            translation=np.array(pose.cam_from_world.translation),
        ).reduced(self.options.longest_edge)

    def render(
        self, query: str, pose: RankedPose
    ) -> tuple[Float[Tensor, "3 H W"], Bool[Tensor, "H W"]]:
        """Render the scan from a pose, and say which pixels were rendered.

        Raises:
            ValueError: if no points of the scan can be read.
        """
        return render_cloud(self.clouds[pose.cutout], self.view(query, pose))

    def score(self, query: str, image: Tensor, pose: RankedPose) -> float:
        """Score how well a pose explains the query's reduced image; 0 for no pose."""
        if pose.pose is None:
            return 0.0
        try:
            rendered, mask = self.render(query, pose)
        except ValueError:  # without points there is nothing to see
            return 0.0
        return dense_score(image.to(mask.device), rendered, mask, self.options.min_coverage)


def find_poses(
    method: str, setting: Setting, verifier: DenseVerifier, outputs: Outputs
) -> list[QueryPoses]:
    """Find the poses of all queries by a method; '<method>+pv' has them reranked by Dense PV.

    The poses of each of the two are kept in a file of their own.

    Raises:
        ValueError: as pose_queries.
    """
    first, *rest = method.split("+")
    found = pose_queries(first, setting, outputs.method_poses(first))
    if not rest:
        return found
    return verify_poses(verifier, found, outputs.method_poses(method), setting.workers)


def verify_poses(
    verifier: DenseVerifier, found: Sequence[QueryPoses], output: Path, workers: int = 1
) -> list[QueryPoses]:
    """Score the best poses of each query and put them into that order, into `output`.

    Queries that are done are left alone.

    Raises:
        ConfigurationChanged: if `output` was made with another configuration.
    """
    poses = [[query.name, *(p.pose for p in query.poses)] for query in found]
    made_by = {"dense": config.to_dict(verifier.options)}
    queries = {query.name: query for query in found}
    store = query_store(output, made_by, [digest(poses)])
    return store.complete(queries, lambda q: rerank(verifier, q), "dense PV", "query", workers)


def rerank(verifier: DenseVerifier, query: QueryPoses) -> QueryPoses:
    """Order a query's poses by their scores, best first; ones without a pose come last."""
    if query.best is None:
        return query
    start = time.perf_counter()
    try:
        size = verifier.view(query.name, query.best).size
        image = read_reduced(verifier.data.folder / query.name, size)
    except ImageError as error:
        return replace(query, poses=(), reason=str(error))
    poses = query.poses[: verifier.options.num_poses]
    fewest = verifier.options.min_share * max(pose.num_inliers for pose in poses)
    with torch.inference_mode():
        scored = [
            replace(p, score=verifier.score(query.name, image, p) if p.num_inliers >= fewest else 0)
            for p in poses
        ]
    ordered = sorted(scored, key=lambda p: (p.pose is None, -p.score))
    seconds = round(query.seconds + time.perf_counter() - start, 3)
    return replace(query, poses=tuple(ordered), seconds=seconds)
