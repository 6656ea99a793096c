"""2D-3D matches -> camera poses of query images (a step)."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from d2_hloc.core.pixels import to_colmap
from d2_hloc.files import features_h5
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.colmap import copy_camera, pycolmap
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.files.outputs import Outputs
from d2_hloc.matching.pairs import Pair
from d2_hloc.matching.tracks import PairMatches, matches_between
from d2_hloc.sfm.cameras.queries import PlacedQuery, by_camera, shared_camera
from d2_hloc.sfm.correspondences import (
    Correspondences,
    Lookup,
    Observations,
    Refiner,
    correspondences,
    covisible_clusters,
    observations,
)
from d2_hloc.sfm.options import LocalizationOptions
from d2_hloc.sfm.pose_refit import FEWEST, refit_pose
from d2_hloc.sfm.poses_file import write_poses


@dataclass(frozen=True, kw_only=True)
class Localized:
    """Result of one query: a pose, or the reason why there is none."""

    name: str
    cam_from_world: pycolmap.Rigid3d | None = None
    num_images: int = 0  # that it was matched with
    num_matches: int = 0  # 2D-3D, without repetitions
    num_inliers: int = 0
    reason: str = ""  # empty where there is a pose


@dataclass(frozen=True, kw_only=True)
class FeaturedModel:
    """A model, and the file of the features that it was made from."""

    reconstruction: pycolmap.Reconstruction
    features: Path


@dataclass(frozen=True, kw_only=True)
class MatchedQueries:
    """Queries with their cameras by name, and their matches with images of a model.

    `pairs` are (query, image of the model). With `verified`, only these matches count, as in
    COLMAP's registration; for None all that are in `matches`.
    """

    cameras: Mapping[str, pycolmap.Camera]
    pairs: Sequence[Pair]
    features: Path
    matches: Path
    verified: Mapping[Pair, PairMatches] | None = None

    def images_among(self, known: Collection[str]) -> dict[str, list[str]]:
        """Images among those `known` that each query was matched with."""
        images: dict[str, list[str]] = {name: [] for name in sorted(self.cameras)}
        for query, image in dict.fromkeys(self.pairs):
            if query in images and image in known:
                images[query].append(image)
        return images


def localize(
    options: LocalizationOptions,
    model: FeaturedModel,
    queries: MatchedQueries,
    outputs: Outputs,
    refine: Refiner | None = None,
) -> list[Localized]:
    """Place the queries in the model, each by the images that it is paired with.

    With `refine`, a query's keypoints are moved to where it shows the points themselves. What was
    found is written as write_localized() says.

    Raises:
        StorageError: if the model was not made from its features.
    """
    seen = observations(model.reconstruction, model.features)
    images = queries.images_among(seen)
    found: list[Localized] = []
    with (
        features_h5.open_h5(queries.features) as features,
        features_h5.open_h5(queries.matches) as matches,
        tqdm(total=len(images), desc="localize", unit="query") as progress,
    ):
        lookup = _all_matches(matches)
        if queries.verified is not None:
            lookup = partial(matches_between, queries.verified)
        task = _Task(options, model.reconstruction, seen, features, lookup, refine)
        for camera, names in by_camera(queries.cameras):
            group = []
            for name in names:
                group.append(_match_query(task, name, images[name]))
                progress.update()
            found += _place_together(task, group, camera)
    found.sort(key=lambda result: result.name)
    write_localized(outputs, found)
    return found


def write_localized(outputs: Outputs, found: Sequence[Localized]) -> None:
    """Write the poses (poses.txt), and a table of what became of every query (poses.csv)."""
    placed = {r.name: r.cam_from_world for r in found if r.cam_from_world is not None}
    write_poses(outputs.poses, placed)
    write_table(outputs.poses_table, found)


@dataclass(frozen=True, kw_only=True)
class Query:
    """An image to place: its matches with groups of images of a model, the images by group.

    `reason` says why there are none, where it cannot be placed.
    """

    name: str
    clusters: Sequence[Sequence[str]] = ()
    matched: Sequence[Correspondences] = ()
    reason: str = ""


@dataclass(frozen=True)
class _Task:
    """Inputs that the localization of every query needs."""

    options: LocalizationOptions
    model: pycolmap.Reconstruction
    seen: Mapping[str, Observations]
    features: GuardedFile
    lookup: Lookup
    refine: Refiner | None


def _all_matches(file: GuardedFile) -> Lookup:
    return lambda query, image: features_h5.matches_of(file, query, image).pairs.numpy()


def _match_query(task: _Task, name: str, images: Sequence[str]) -> Query:
    """Find a query's 2D-3D matches with the images of the model that it was matched with."""
    if name not in task.features:
        return Query(name=name, reason="it has no features")
    if not images:
        return Query(name=name, reason="it was matched with no image of the model")
    keypoints = features_h5.keypoints_of(task.features, name)
    clusters = [list(images)]
    if task.options.covisibility_clustering:
        clusters = covisible_clusters(images, task.seen)
    matched = [
        correspondences(task.lookup, name, keypoints, cluster, task.seen, task.refine)
        for cluster in clusters
    ]
    return Query(name=name, clusters=clusters, matched=matched)


def _place_together(
    task: _Task, group: Sequence[Query], camera: pycolmap.Camera
) -> list[Localized]:
    """Place the queries of one camera. A focal length that was a guess is set to the estimate.

    A guess is estimated for each query first, then once for all that could be placed; all queries
    are placed again by that.
    """
    if len(group) == 1 or camera.has_prior_focal_length:
        return [_place(task, query, camera)[0] for query in group]
    placed = [_place(task, query, copy_camera(camera)) for query in group]
    shared = shared_camera(camera, [query for _, query in placed if query is not None], task.model)
    if shared is None:
        return [result for result, _ in placed]
    camera.params = shared.params.tolist()
    return [_place(task, query, shared)[0] for query in group]


def _place(
    task: _Task, query: Query, camera: pycolmap.Camera
) -> tuple[Localized, PlacedQuery | None]:
    """The best of a query's poses, one for each group of images, and what it rests on."""
    if query.reason:
        return Localized(name=query.name, reason=query.reason), None
    results = []
    for images, matched in zip(query.clusters, query.matched, strict=True):
        pose, inliers = estimate_pose(task.options, task.model, matched, camera)
        num_inliers = int(inliers.sum())
        localized = Localized(
            name=query.name,
            cam_from_world=pose,
            num_images=len(images),
            num_matches=len(matched.point_ids),
            num_inliers=num_inliers,
            reason="" if pose else f"{num_inliers} inliers of {len(matched.point_ids)} matches",
        )
        placed = None
        if pose is not None:
            focal = float(camera.mean_focal_length())
            placed = PlacedQuery(pose, matched.xy[inliers], matched.point_ids[inliers], focal)
        results.append((localized, placed))
    return max(results, key=lambda r: (r[1] is not None, r[0].num_inliers))


def estimate_pose(
    options: LocalizationOptions,
    model: pycolmap.Reconstruction,
    matched: Correspondences,
    camera: pycolmap.Camera,
) -> tuple[pycolmap.Rigid3d | None, np.ndarray]:
    """The pose (world to camera), or None, and the mask (K,) of the inliers.

    The focal length is estimated too where it is only a guess, and set in the camera.
    """
    xyz = np.array([model.points3D[i].xyz for i in matched.point_ids.tolist()]).reshape(-1, 3)
    answer = absolute_pose(
        matched.xy,
        xyz,
        camera,
        max_error=options.max_error,
        random_seed=options.random_seed,
        estimate_focal_length=not camera.has_prior_focal_length,
    )
    if answer is None:
        return None, np.zeros(len(xyz), bool)
    mask = np.asarray(answer["inlier_mask"], dtype=bool)
    if mask.sum() < options.min_num_inliers:
        return None, mask
    pose, xy = answer["cam_from_world"], to_colmap(matched.xy)
    deviations = matched.deviations if options.by_uncertainty else None
    return refit_pose(pose, xy, xyz, mask, camera, deviations), mask


def absolute_pose(
    xy: np.ndarray,
    xyz: np.ndarray,
    camera: pycolmap.Camera,
    *,
    max_error: float,
    random_seed: int,
    estimate_focal_length: bool = False,
    loss_scale: float = 1.0,
) -> dict[str, Any] | None:
    """P3P in COLMAP's LO-RANSAC, and its refinement: cam_from_world, num_inliers, inlier_mask.

    `xy` (K, 2) has (0, 0) at the centre of the first pixel. Errors are in pixels; beyond
    `loss_scale` the loss of the refinement is robust. None for too few points, or no pose.
    """
    if len(xy) < FEWEST:
        return None
    ransac = pycolmap.RANSACOptions(
        max_error=max_error,
        min_inlier_ratio=0.01,
        confidence=0.9999,
        max_num_trials=100_000,
        random_seed=random_seed,
    )
    return pycolmap.estimate_and_refine_absolute_pose(
        to_colmap(xy),
        xyz,
        camera,
        pycolmap.AbsolutePoseEstimationOptions(
            estimate_focal_length=estimate_focal_length, ransac=ransac
        ),
        pycolmap.AbsolutePoseRefinementOptions(
            refine_focal_length=estimate_focal_length, loss_function_scale=loss_scale
        ),
    )


def count_found(found: Sequence[Localized]) -> dict[str, Any]:
    """Count the queries, and those placed by their own matches; say why others were not."""
    return {
        "queries": len(found),
        "localized": sum(not r.reason for r in found),
        "not_localized": {r.name: r.reason for r in found if r.reason},
    }


def write_table(path: Path, results: Sequence[Localized]) -> None:
    """Write images, matches and inliers of each query, and the reason where there is no pose."""
    text = io.StringIO()
    columns = ["name", "localized", "num_images", "num_matches", "num_inliers", "reason"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    for result in results:
        row = vars(result) | {"localized": result.cam_from_world is not None}
        writer.writerow(row)
    write_atomically(path, text.getvalue().encode())
