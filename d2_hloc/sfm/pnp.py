"""2D-3D matches -> camera poses of query images (a step)."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from d2_hloc.core.pixels import from_colmap, to_colmap
from d2_hloc.files import features_h5
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.colmap import pycolmap
from d2_hloc.matching.pairs import Pair
from d2_hloc.matching.tracks import PairMatches, matches_between
from d2_hloc.sfm.poses_file import write_poses

logger = logging.getLogger(__name__)


FEWEST = 4  # matches that determine a pose and confirm it


OUTLIER_FACTOR = 5.0  # median errors


ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class LocalizationOptions:
    """PnP with COLMAP's LO-RANSAC. `max_error` in pixels.

    `covisibility_clustering`: a pose for each group of retrieved images that see common points, and
    the one with most inliers; otherwise all matches go into one estimate.
    """

    max_error: float = 12.0
    min_num_inliers: int = 12
    covisibility_clustering: bool = False
    random_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Localized:
    """What became of one query: a pose, or the reason why there is none."""

    name: str
    cam_from_world: pycolmap.Rigid3d | None = None
    num_images: int = 0  # that it was matched with
    num_matches: int = 0  # 2D-3D, without repetitions
    num_inliers: int = 0
    reason: str = ""  # empty where there is a pose


@dataclass(frozen=True, kw_only=True)
class Correspondences:
    """Places in a query and the 3D points that they match."""

    xy: np.ndarray  # (K, 2), (0, 0) is the centre of the first pixel
    point_ids: np.ndarray  # (K,)


@dataclass(frozen=True, kw_only=True)
class Observations:
    """What a model's image sees: of each keypoint the 3D point's id, or -1, and its projection."""

    point_ids: np.ndarray  # (N,)
    projected: np.ndarray  # (N, 2), as keypoints; NaN without a point


# (query, image, keypoints of the query (K, 2), places of their points in the image (K, 2)) ->
# where the query shows these points (K, 2), and which of them were found (K,).
Refiner = Callable[[str, str, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


Lookup = Callable[[str, str], np.ndarray]  # (query, image) -> their matches (K, 2)


def localize(
    options: LocalizationOptions,
    model: pycolmap.Reconstruction,
    model_features: Path,
    cameras: Mapping[str, pycolmap.Camera],
    pairs: Sequence[Pair],
    features: Path,
    matches: Path,
    output: Path,
    refine: Refiner | None = None,
    verified: Mapping[Pair, PairMatches] | None = None,
) -> list[Localized]:
    """Poses of the queries in `cameras`, each from the images that `pairs` gives it.

    With `refine`, a query's keypoints are moved to where it shows the points themselves. With
    `verified`, only these matches count, as in COLMAP's registration.

    Writes poses.txt, `name qw qx qy qz tx ty tz` (world to camera), to `output`, and beside it a
    table with what became of every query.

    Raises:
        StorageError: if the model was not made from `model_features`.
    """
    seen = observations(model, model_features)
    images: dict[str, list[str]] = {name: [] for name in sorted(cameras)}
    for query, image in dict.fromkeys(pairs):
        if query in images and image in seen:
            images[query].append(image)
    found = []
    with features_h5.open_h5(features) as feature_file, features_h5.open_h5(matches) as match_file:
        lookup = (
            _all_matches(match_file) if verified is None else partial(matches_between, verified)
        )
        task = _Task(options, model, seen, feature_file, lookup, refine)
        for name in tqdm(images, desc="localize", unit="query"):
            query = Query(name=name, camera=cameras[name], images=images[name])
            found.append(_localize_query(task, query))
    write_poses(output, {r.name: r.cam_from_world for r in found if r.cam_from_world is not None})
    write_table(output.with_suffix(".csv"), found)
    return found


def observations(model: pycolmap.Reconstruction, model_features: Path) -> dict[str, Observations]:
    """By image name, what the registered images of a model see.

    Raises:
        StorageError: if the model was not made from `model_features`.
    """
    seen = {}
    with features_h5.open_h5(model_features) as file:
        for image_id in model.reg_image_ids():
            image = model.images[image_id]
            count = len(file[image.name]["keypoints"]) if image.name in file else None
            if count != image.num_points2D():
                raise features_h5.StorageError(
                    f"{model_features}: holds {count} keypoints of {image.name}, the model "
                    f"{image.num_points2D()}; triangulate the model from these features first."
                )
            seen[image.name] = _observations(model, image)
    return seen


def _observations(model: pycolmap.Reconstruction, image: pycolmap.Image) -> Observations:
    ids = [p.point3D_id if p.has_point3D() else -1 for p in image.points2D]
    point_ids = np.array(ids, dtype=np.int64)
    projected = np.full((len(ids), 2), np.nan)
    has_point = point_ids >= 0
    xyz = np.array([model.points3D[i].xyz for i in point_ids[has_point].tolist()]).reshape(-1, 3)
    in_camera = image.cam_from_world() * xyz
    projected[has_point] = from_colmap(image.camera.img_from_cam(in_camera))
    return Observations(point_ids=point_ids, projected=projected)


@dataclass(frozen=True, kw_only=True)
class Query:
    """An image to place: its camera and the images of the model that it was matched with."""

    name: str
    camera: pycolmap.Camera
    images: Sequence[str]


@dataclass(frozen=True)
class _Task:
    """What the localization of every query needs."""

    options: LocalizationOptions
    model: pycolmap.Reconstruction
    seen: Mapping[str, Observations]
    features: h5py.File
    lookup: Lookup
    refine: Refiner | None


def _all_matches(file: h5py.File) -> Lookup:
    return lambda query, image: features_h5.matches_of(file, query, image).pairs.numpy()


def _localize_query(task: _Task, query: Query) -> Localized:
    if query.name not in task.features:
        return Localized(name=query.name, reason="it has no features")
    if not query.images:
        return Localized(name=query.name, reason="it was matched with no image of the model")
    keypoints = features_h5.keypoints_of(task.features, query.name)
    clusters = [query.images]
    if task.options.covisibility_clustering:
        clusters = covisible_clusters(query.images, task.seen)
    results = []
    for cluster in clusters:
        matched = correspondences(
            task.lookup, query.name, keypoints, cluster, task.seen, task.refine
        )
        pose, inliers = estimate_pose(task.options, task.model, matched, query.camera)
        results.append(
            Localized(
                name=query.name,
                cam_from_world=pose,
                num_images=len(cluster),
                num_matches=len(matched.point_ids),
                num_inliers=inliers,
                reason="" if pose else f"{inliers} inliers of {len(matched.point_ids)} matches",
            )
        )
    return max(results, key=lambda r: (r.cam_from_world is not None, r.num_inliers))


def correspondences(
    lookup: Lookup,
    query: str,
    keypoints: np.ndarray,
    images: Iterable[str],
    seen: Mapping[str, Observations],
    refine: Refiner | None = None,
) -> Correspondences:
    """Distinct (keypoint of the query, 3D point) over its matches with several images.

    A keypoint that several images have moved is where the median of them puts it.
    """
    keys, places, found = [np.empty((0, 2), int)], [np.empty((0, 2))], [np.empty(0, bool)]
    for image in images:
        pairs = lookup(query, image)
        pairs = pairs[seen[image].point_ids[pairs[:, 1]] >= 0]
        xy, is_moved = keypoints[pairs[:, 0]], np.zeros(len(pairs), bool)
        if refine is not None and len(pairs):
            xy, is_moved = refine(query, image, xy, seen[image].projected[pairs[:, 1]])
        keys.append(np.stack([pairs[:, 0], seen[image].point_ids[pairs[:, 1]]], axis=1))
        places.append(xy)
        found.append(is_moved)
    return _distinct(np.concatenate(keys), np.concatenate(places), np.concatenate(found))


def _distinct(keys: np.ndarray, xy: np.ndarray, is_moved: np.ndarray) -> Correspondences:
    """One correspondence for each (keypoint, point); places that were moved go before others."""
    distinct, index = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(index.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(index.ravel(), minlength=len(distinct)))
    merged = np.empty((len(distinct), 2))
    for k, rows in enumerate(np.split(order, ends[:-1]) if len(distinct) else []):
        moved = rows[is_moved[rows]]
        merged[k] = np.median(xy[moved if len(moved) else rows], axis=0)
    return Correspondences(xy=merged, point_ids=distinct[:, 1])


def estimate_pose(
    options: LocalizationOptions,
    model: pycolmap.Reconstruction,
    matched: Correspondences,
    camera: pycolmap.Camera,
) -> tuple[pycolmap.Rigid3d | None, int]:
    """The pose (world to camera), or None, and the number of inliers.

    The focal length is estimated too where it is only a guess.
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
        return None, 0
    inliers = int(answer["num_inliers"])
    if inliers < options.min_num_inliers:
        return None, inliers
    mask = np.asarray(answer["inlier_mask"], dtype=bool)
    return settle_pose(answer["cam_from_world"], to_colmap(matched.xy), xyz, mask, camera), inliers


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


def settle_pose(
    pose: pycolmap.Rigid3d,
    xy: np.ndarray,
    xyz: np.ndarray,
    inliers: np.ndarray,
    camera: pycolmap.Camera,
) -> pycolmap.Rigid3d:
    """The pose again, from the inliers within OUTLIER_FACTOR median errors, as models are settled.

    `xy` (K, 2) are COLMAP's pixels, `inliers` a mask (K,). The focal length stays.
    """
    for _ in range(ROUNDS):
        errors = np.linalg.norm(camera.img_from_cam(pose * xyz) - xy, axis=1)
        near = inliers & (errors <= OUTLIER_FACTOR * np.median(errors[inliers]))
        answer = pycolmap.refine_absolute_pose(pose, xy, xyz, near, camera)
        if answer is None:
            break
        pose, inliers = answer["cam_from_world"], near
    return pose


def covisible_clusters(
    images: Sequence[str], observed: Mapping[str, Observations]
) -> list[list[str]]:
    """Groups of images that are connected by common 3D points; the largest first."""
    seen = {name: set(observed[name].point_ids.tolist()) - {-1} for name in images}
    clusters: list[list[str]] = []
    left = list(dict.fromkeys(images))
    while left:
        cluster, border = [], [left.pop(0)]
        while border:
            name = border.pop()
            cluster.append(name)
            near = [other for other in left if not seen[name].isdisjoint(seen[other])]
            left = [other for other in left if other not in near]
            border += near
        clusters.append(cluster)
    return sorted(clusters, key=len, reverse=True)


def count_found(found: Sequence[Localized]) -> dict[str, Any]:
    """How many queries there are, how many were placed by their own matches, why others not."""
    return {
        "queries": len(found),
        "localized": sum(not r.reason for r in found),
        "not_localized": {r.name: r.reason for r in found if r.reason},
    }


def write_table(path: Path, results: Sequence[Localized]) -> None:
    """One line a query: images, matches, inliers, and the reason where there is no pose."""
    text = io.StringIO()
    columns = ["name", "localized", "num_images", "num_matches", "num_inliers", "reason"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    for result in results:
        row = vars(result) | {"localized": result.cam_from_world is not None}
        writer.writerow(row)
    write_atomically(path, text.getvalue().encode())
