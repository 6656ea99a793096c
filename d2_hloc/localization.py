"""2D-3D matches -> camera poses of query images (a step)."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from d2_hloc import storage
from d2_hloc.colmap import pycolmap
from d2_hloc.pairs import Pair
from d2_hloc.pixels import to_colmap
from d2_hloc.staging import write_atomically
from d2_hloc.textfile import numbered_lines

logger = logging.getLogger(__name__)


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
    """Keypoints of a query and the 3D points that they match."""

    keypoint_indices: np.ndarray  # (K,)
    point_ids: np.ndarray  # (K,)


def localize(
    options: LocalizationOptions,
    model: pycolmap.Reconstruction,
    model_features: Path,
    cameras: Mapping[str, pycolmap.Camera],
    pairs: Sequence[Pair],
    features: Path,
    matches: Path,
    output: Path,
) -> list[Localized]:
    """Poses of the queries in `cameras`, each from the images that `pairs` gives it.

    Writes poses.txt, `name qw qx qy qz tx ty tz` (world to camera), to `output`, and beside it a
    table with what became of every query.

    Raises:
        StorageError: if the model was not made from `model_features`.
    """
    points = observed_points(model, model_features)
    images: dict[str, list[str]] = {name: [] for name in sorted(cameras)}
    for query, image in dict.fromkeys(pairs):
        if query in images and image in points:
            images[query].append(image)
    found = []
    with storage.open_h5(features) as feature_file, storage.open_h5(matches) as match_file:
        files = feature_file, match_file
        for name in tqdm(images, desc="localize", unit="query"):
            query = Query(name=name, camera=cameras[name], images=images[name])
            found.append(_localize_query(options, model, points, query, files))
    write_poses(output, {r.name: r.cam_from_world for r in found if r.cam_from_world is not None})
    write_table(output.with_suffix(".csv"), found)
    return found


def observed_points(model: pycolmap.Reconstruction, features: Path) -> dict[str, np.ndarray]:
    """By image name, the id of the 3D point of each keypoint, or -1."""
    points = {}
    with storage.open_h5(features) as file:
        for image_id in model.reg_image_ids():
            image = model.images[image_id]
            points[image.name] = np.array(
                [p.point3D_id if p.has_point3D() else -1 for p in image.points2D], dtype=np.int64
            )
            count = len(file[image.name]["keypoints"]) if image.name in file else None
            if count != len(points[image.name]):
                raise storage.StorageError(
                    f"{features}: holds {count} keypoints of {image.name}, the model "
                    f"{len(points[image.name])}; triangulate the model from these features first."
                )
    return points


@dataclass(frozen=True, kw_only=True)
class Query:
    """An image to place: its camera and the images of the model that it was matched with."""

    name: str
    camera: pycolmap.Camera
    images: Sequence[str]


def _localize_query(
    options: LocalizationOptions,
    model: pycolmap.Reconstruction,
    points: Mapping[str, np.ndarray],
    query: Query,
    files: tuple[h5py.File, h5py.File],
) -> Localized:
    feature_file, match_file = files
    if query.name not in feature_file:
        return Localized(name=query.name, reason="it has no features")
    if not query.images:
        return Localized(name=query.name, reason="it was matched with no image of the model")
    keypoints = to_colmap(storage.keypoints_of(feature_file, query.name))
    clusters = [query.images]
    if options.covisibility_clustering:
        clusters = covisible_clusters(query.images, points)
    results = []
    for cluster in clusters:
        matched = correspondences(match_file, query.name, cluster, points)
        pose, inliers = estimate_pose(options, model, keypoints, matched, query.camera)
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
    matches: h5py.File, query: str, images: Iterable[str], points: Mapping[str, np.ndarray]
) -> Correspondences:
    """Distinct (keypoint of the query, 3D point) over its matches with several images."""
    found = [np.empty((0, 2), dtype=np.int64)]
    for image in images:
        pairs = storage.matches_of(matches, query, image).pairs.numpy()
        ids = points[image][pairs[:, 1]]
        found.append(np.stack([pairs[:, 0], ids], axis=1)[ids >= 0])
    distinct = np.unique(np.concatenate(found), axis=0)
    return Correspondences(keypoint_indices=distinct[:, 0], point_ids=distinct[:, 1])


def estimate_pose(
    options: LocalizationOptions,
    model: pycolmap.Reconstruction,
    keypoints: np.ndarray,
    matched: Correspondences,
    camera: pycolmap.Camera,
) -> tuple[pycolmap.Rigid3d | None, int]:
    """The pose (world to camera), or None, and the number of inliers.

    `keypoints` are (N, 2) in COLMAP's pixels. The focal length is estimated too where it is only
    a guess.
    """
    if len(matched.point_ids) < 4:
        return None, 0
    xyz = np.array([model.points3D[i].xyz for i in matched.point_ids.tolist()])
    is_guess = not camera.has_prior_focal_length
    answer = pycolmap.estimate_and_refine_absolute_pose(
        keypoints[matched.keypoint_indices].astype(np.float64),
        xyz,
        camera,
        pycolmap.AbsolutePoseEstimationOptions(
            estimate_focal_length=is_guess,
            ransac=pycolmap.RANSACOptions(
                max_error=options.max_error,
                min_inlier_ratio=0.01,
                confidence=0.9999,
                max_num_trials=100_000,
                random_seed=options.random_seed,
            ),
        ),
        pycolmap.AbsolutePoseRefinementOptions(refine_focal_length=is_guess),
    )
    if answer is None:
        return None, 0
    inliers = int(answer["num_inliers"])
    return (answer["cam_from_world"] if inliers >= options.min_num_inliers else None), inliers


def covisible_clusters(images: Sequence[str], points: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Groups of images that are connected by common 3D points; the largest first."""
    seen = {name: set(points[name][points[name] >= 0].tolist()) for name in images}
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


def write_poses(path: Path, poses: Mapping[str, pycolmap.Rigid3d]) -> None:
    """`name qw qx qy qz tx ty tz` a line, world to camera."""
    lines = []
    for name, pose in sorted(poses.items()):
        x, y, z, w = pose.rotation.quat
        numbers = [w, x, y, z, *pose.translation]
        lines.append(" ".join([name, *(f"{n:.12g}" for n in numbers)]) + "\n")
    write_atomically(path, "".join(lines).encode())


def read_poses(path: Path) -> dict[str, pycolmap.Rigid3d]:
    """Poses by name; the last seven numbers of a line are the pose, so ground truth reads too.

    Raises:
        ValueError: for a missing file or a line of another form.
    """
    poses = {}
    for number, line in numbered_lines(path):
        name, *fields = line.split()
        try:
            qw, qx, qy, qz, *translation = map(float, fields[-7:])
            poses[name] = pycolmap.Rigid3d(pycolmap.Rotation3d([qx, qy, qz, qw]), translation)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: expected 'name qw qx qy qz tx ty tz'."
            ) from error
    return poses


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
