"""2D-3D correspondences of a query, from its matches with images of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2_hloc.core.pixels import from_colmap
from d2_hloc.files import features_h5
from d2_hloc.files.checked_arrays import check_matches
from d2_hloc.files.colmap import camera_of, img_from_cam, pycolmap
from d2_hloc.refinement.matches import FoundPlaces

# (query, image, keypoints of the query (K, 2), places of their points in the image (K, 2)) ->
# where the query shows these points.
Refiner = Callable[[str, str, np.ndarray, np.ndarray], FoundPlaces]

Lookup = Callable[[str, str], np.ndarray]  # (query, image) -> their matches (K, 2)


@dataclass(frozen=True, kw_only=True)
class Correspondences:
    """Places in a query and the 3D points that they match.

    `deviations` of the places are along an axis; NaN of those that were not moved.
    """

    xy: np.ndarray  # (K, 2), (0, 0) is the centre of the first pixel
    point_ids: np.ndarray  # (K,)
    deviations: np.ndarray  # (K,), pixels


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Points that an image of a model sees: by keypoint, their ids, or -1, and projections."""

    point_ids: np.ndarray  # (N,)
    projected: np.ndarray  # (N, 2), as keypoints; NaN without a point


def observations(model: pycolmap.Reconstruction, model_features: Path) -> dict[str, Observations]:
    """Observations of the registered images of a model, by image name.

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
    projected[has_point] = from_colmap(img_from_cam(camera_of(image), in_camera))
    return Observations(point_ids=point_ids, projected=projected)


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
    deviations = [np.empty(0)]
    for image in images:
        pairs = lookup(query, image)
        counts = len(keypoints), len(seen[image].point_ids)
        check_matches(pairs, *counts, f"Those of {query} and {image}")
        pairs = pairs[seen[image].point_ids[pairs[:, 1]] >= 0]
        xy, is_moved = keypoints[pairs[:, 0]], np.zeros(len(pairs), bool)
        spread = np.full(len(pairs), np.nan)
        if refine is not None and len(pairs):
            moved = refine(query, image, xy, seen[image].projected[pairs[:, 1]])
            xy, is_moved, spread = moved.xy, moved.is_found, moved.deviations
        keys.append(np.stack([pairs[:, 0], seen[image].point_ids[pairs[:, 1]]], axis=1))
        places.append(xy)
        found.append(is_moved)
        deviations.append(spread)
    return _distinct(*map(np.concatenate, (keys, places, found, deviations)))


def _distinct(
    keys: np.ndarray, xy: np.ndarray, is_moved: np.ndarray, deviations: np.ndarray
) -> Correspondences:
    """One correspondence for each (keypoint, point); places that were moved go before others."""
    distinct, index = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(index.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(index.ravel(), minlength=len(distinct)))
    merged, spread = np.empty((len(distinct), 2)), np.empty(len(distinct))
    for k, rows in enumerate(np.split(order, ends[:-1]) if len(distinct) else []):
        moved = rows[is_moved[rows]]
        used = moved if len(moved) else rows
        merged[k] = np.median(xy[used], axis=0)
        spread[k] = deviations[used].mean()
    return Correspondences(xy=merged, point_ids=distinct[:, 1], deviations=spread)


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
