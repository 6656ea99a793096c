"""Queries + matches with cutouts + the cutouts' points -> poses: Direct, Sparse and Pooled PE.

Taira et al., "InLoc", CVPR 2018; Dusmanu et al., "D2-Net", CVPR 2019, Section 5.3.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from d2_hloc.benchmarks.inloc.final_pose import polish_pose
from d2_hloc.benchmarks.inloc.lists import Candidate, Ranked
from d2_hloc.benchmarks.inloc.matches import (
    MatchedCutouts,
    PairMatches,
    open_matched,
    verified_matches,
)
from d2_hloc.benchmarks.inloc.options import PoseOptions
from d2_hloc.benchmarks.inloc.pose_files import (
    PoseStore,
    QueryPoses,
    RankedPose,
    digest,
    pose_numbers,
)
from d2_hloc.core import config
from d2_hloc.core.pixels import from_colmap
from d2_hloc.core.threads import in_threads
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap
from d2_hloc.refinement.matches import PairRefiner
from d2_hloc.sfm.pnp import absolute_pose

REFERENCE_WIDTH = 4032  # pixels of InLoc's queries, which thresholds in pixels are given for


EXTRACTED_EDGE = 1600  # pixels; larger images are reduced to it before extraction


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every query of a run shares."""

    options: PoseOptions
    cameras: Mapping[str, pycolmap.Camera]
    ranked: Ranked
    features: Path
    matches: Path
    points: Path
    refine: PairRefiner | None = None
    workers: int = 1  # threads; they share the open files and the caches


Method = Callable[[Setting, MatchedCutouts, str, Sequence[Candidate]], list[RankedPose]]


def pose_queries(method: str, setting: Setting, output: Path) -> list[QueryPoses]:
    """Poses of all queries by 'direct', 'sparse' or 'pooled', best first, into `output`.

    Queries that are done are left alone; each is stored as it comes. One that cannot be placed is
    reported with the reason.

    Raises:
        StorageError: if a file of features, matches or points cannot be used.
        ConfigurationChanged: if `output` was made with another configuration.
    """
    store = PoseStore(output, configuration(method, setting))
    todo = [name for name in setting.ranked if name not in store.found]
    with open_matched(setting.features, setting.matches, setting.points) as files:
        place_one = partial(pose_query, METHODS[method], setting, files)
        with store.saving():
            found = in_threads(place_one, todo, setting.workers)
            progress = tqdm(found, desc=method, unit="query", total=len(todo), disable=not todo)
            for poses in progress:
                store.add(poses)
    return [store.found[name] for name in setting.ranked]


def configuration(method: str, setting: Setting) -> dict[str, object]:
    """What the poses depend on."""
    return {
        "method": method,
        "poses": config.to_dict(setting.options),
        "is_refined": setting.refine is not None,
        "matches": features_h5.read_configuration(setting.matches),
        "cameras": {n: c.params.tolist() for n, c in sorted(setting.cameras.items())},
        "candidates": digest(
            [[q, *([c.cutout, c.score] for c in found)] for q, found in setting.ranked.items()]
        ),
    }


def pose_query(method: Method, setting: Setting, files: MatchedCutouts, name: str) -> QueryPoses:
    """Place one query."""
    start = time.perf_counter()
    if not files.has_features(name):
        return QueryPoses(name=name, reason="it has no features")
    if not setting.ranked[name]:
        return QueryPoses(name=name, reason="no cutout was retrieved for it")
    candidates = [c for c in setting.ranked[name] if files.has_points(c.cutout)]
    if not candidates:
        return QueryPoses(name=name, reason="none of its cutouts has features and points")
    poses = method(setting, files, name, candidates)
    seconds = round(time.perf_counter() - start, 3)
    reason = "" if any(pose.pose for pose in poses) else _why_not(poses)
    return QueryPoses(name=name, poses=tuple(poses), seconds=seconds, reason=reason)


def _why_not(poses: Sequence[RankedPose]) -> str:
    most = max(pose.num_matches for pose in poses)
    if most == 0:
        return "it has no match with a point"
    return f"{max(p.num_inliers for p in poses)} inliers of at most {most} matches"


def direct_poses(
    setting: Setting, files: MatchedCutouts, query: str, candidates: Sequence[Candidate]
) -> list[RankedPose]:
    """Direct PE: the best retrieved cutout, all of its matches."""
    best = candidates[0]
    found = files.between(query, best.cutout)
    pose = place(setting, query, [found], best, setting.options.max_angle)
    return [polished(setting, files, query, pose)]


def sparse_poses(
    setting: Setting, files: MatchedCutouts, query: str, candidates: Sequence[Candidate]
) -> list[RankedPose]:
    """Sparse PE: verify spatially, rerank, place by each of the best; that of most inliers first.

    A candidate is ranked by its retrieval score plus its verified matches.
    """
    verified = [verified_matches(setting.options, files, query, c.cutout) for c in candidates]
    scores = [c.score + len(found) for c, found in zip(candidates, verified, strict=True)]
    best = np.argsort(-np.array(scores), kind="stable")[: setting.options.num_poses]
    poses = [
        place(
            setting,
            query,
            [verified[k]],
            replace(candidates[k], score=scores[k]),
            setting.options.max_angle,
        )
        for k in best
    ]
    poses.sort(key=lambda p: (p.pose is None, -p.num_inliers))
    return [polished(setting, files, query, poses[0]), *poses[1:]]


def pooled_poses(
    setting: Setting, files: MatchedCutouts, query: str, candidates: Sequence[Candidate]
) -> list[RankedPose]:
    """Pooled PE, as hloc does it: one pose from the matches with all candidates."""
    found = [files.between(query, c.cutout) for c in candidates]
    # The cutout to show is the one that gives most matches.
    most = max(range(len(found)), key=lambda k: len(found[k]))
    camera = setting.cameras[query]
    pixels = setting.options.pooled_error * max(camera.width, camera.height) / REFERENCE_WIDTH
    max_angle = math.degrees(math.atan(pixels / camera.mean_focal_length()))
    return [place(setting, query, found, candidates[most], max_angle)]


METHODS: dict[str, Method] = {
    "direct": direct_poses,
    "sparse": sparse_poses,
    "pooled": pooled_poses,
}


REFINING = threading.Lock()  # refinement has torch use all threads, or one, as a whole


def place(
    setting: Setting,
    query: str,
    found: Sequence[PairMatches],
    shown: Candidate,
    max_angle: float,
) -> RankedPose:
    """A pose from the matches with one cutout, or several."""
    moved = [refined(setting.refine, query, some) for some in found]
    xy = np.concatenate([some.xy0 for some in moved])
    xyz = np.concatenate([some.xyz for some in moved])
    known = np.isfinite(xyz).all(axis=1)
    pose, inliers = estimate_pose(
        setting.options, xy[known], xyz[known], setting.cameras[query], max_angle
    )
    return RankedPose(
        cutout=shown.cutout,
        pose=None if pose is None else pose_numbers(pose),
        num_matches=int(known.sum()),
        num_inliers=inliers,
        score=shown.score,
    )


def refined(refine: PairRefiner | None, query: str, found: PairMatches) -> PairMatches:
    """The same matches with the query's keypoints moved to where the cutout's are seen.

    The cutout's stay, and with them the points that were looked up for them.
    """
    if refine is None or len(found) == 0:
        return found
    with REFINING:
        _, moved = refine(
            (found.cutout, query), found.xy1.astype(np.float32), found.xy0.astype(np.float32)
        )
    return replace(found, xy0=moved.astype(float))


def fits_pose(setting: Setting, query: str, pose: RankedPose, found: PairMatches) -> np.ndarray:
    """Mask of the matches whose point is seen near the query's keypoint."""
    points = pose.cam_from_world * found.xyz
    camera = setting.cameras[query]
    is_before = points[:, 2] > 0  # not for NaN
    projected = np.full(found.xy0.shape, np.inf)
    projected[is_before] = from_colmap(camera.img_from_cam(points[is_before]))
    max_error = camera.mean_focal_length() * math.tan(math.radians(setting.options.max_angle))
    return np.linalg.norm(projected - found.xy0, axis=1) <= max_error


def polished(setting: Setting, files: MatchedCutouts, query: str, best: RankedPose) -> RankedPose:
    """The pose again, from all points that its cutout shows."""
    if setting.refine is None or not setting.options.polish or best.pose is None:
        return best
    camera, pair = setting.cameras[query], (best.cutout, query)
    keypoints, xyz = files.points_of(best.cutout)
    matches = files.between(query, best.cutout)
    near = matches[fits_pose(setting, query, best, matches)]

    def search(index: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with REFINING:
            return setting.refine.search(pair, keypoints[index], expected, (near.xy1, near.xy0))

    pose = polish_pose(best.cam_from_world, camera, xyz, search)
    return replace(best, pose=pose_numbers(pose))


def estimate_pose(
    options: PoseOptions,
    xy: Float[np.ndarray, "K 2"],
    xyz: Float[np.ndarray, "K 3"],
    camera: pycolmap.Camera,
    max_angle: float,
) -> tuple[pycolmap.Rigid3d | None, int]:
    """P3P in LO-RANSAC: the pose (building to camera), or None, and the number of inliers.

    `max_angle` in degrees is as many pixels as it is wide in the middle of the image.
    """
    # Where the loss turns robust: as many pixels as one of the image that keypoints were found in.
    width = max(1.0, max(camera.width, camera.height) / EXTRACTED_EDGE)
    answer = absolute_pose(
        xy,
        xyz,
        camera,
        max_error=camera.mean_focal_length() * math.tan(math.radians(max_angle)),
        random_seed=options.random_seed,
        loss_scale=width,
    )
    if answer is None:
        return None, 0
    inliers = int(answer["num_inliers"])
    return (answer["cam_from_world"] if inliers >= options.min_num_inliers else None), inliers
