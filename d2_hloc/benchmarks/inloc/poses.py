"""Estimate poses of queries from matches with cutouts: Direct, Sparse, Dense, Pooled PE.

Taira et al., "InLoc", CVPR 2018; Dusmanu et al., "D2-Net", CVPR 2019, Section 5.3.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from d2_hloc.benchmarks.inloc.final_pose import (
    Found,
    Index,
    Places,
    pose_of_visible_points,
    project_points,
)
from d2_hloc.benchmarks.inloc.lists import Candidate, Ranked
from d2_hloc.benchmarks.inloc.matches import (
    CutoutMatches,
    MatchedCutouts,
    QueryFiles,
    verified_spatially,
)
from d2_hloc.benchmarks.inloc.options import PoseOptions
from d2_hloc.benchmarks.inloc.pose_files import (
    QueryPoses,
    RankedPose,
    pose_numbers,
    query_store,
)
from d2_hloc.core import config
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.provenance import digest, file_checksum
from d2_hloc.refinement.matches import PairRefiner
from d2_hloc.sfm.pnp import absolute_pose

REFERENCE_WIDTH = 4032  # pixels of InLoc's queries, which thresholds in pixels are given for
EXTRACTED_EDGE = 1600  # pixels; larger images are reduced to it before extraction


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Options, cameras, candidates and files that all queries of a run share."""

    options: PoseOptions
    cameras: Mapping[str, pycolmap.Camera]
    ranked: Ranked
    files: QueryFiles
    refine: PairRefiner | None = None
    workers: int = 1  # threads; they share the open files and the caches


Method = Callable[[Setting, MatchedCutouts, str, Sequence[Candidate]], list[RankedPose]]


def pose_queries(method: str, setting: Setting, output: Path) -> list[QueryPoses]:
    """Find poses of all queries by a method's name (METHODS), best first, into `output`.

    Queries that are done are left alone. Ones without a pose have the reason instead.

    Raises:
        StorageError: if a file of features, matches or points cannot be used.
        ConfigurationChanged: if `output` was made with another configuration.
    """
    store = query_store(
        output, pose_configuration(method, setting), file_checksum(setting.files.matches.path)
    )
    names = {name: name for name in setting.ranked}
    with setting.files.open() as files:

        def pose(name: str) -> QueryPoses:
            return pose_query(METHODS[method], setting, files, name)

        return store.complete(names, pose, method, "query", setting.workers)


def pose_configuration(method: str, setting: Setting) -> dict[str, object]:
    """Describe all that the poses depend on; long lists by their digests."""
    cameras = {n: c.params.tolist() for n, c in sorted(setting.cameras.items())}
    return {
        "method": method,
        "poses": config.to_dict(setting.options),
        "is_refined": setting.refine is not None,
        "matches": features_h5.read_configuration(setting.files.matches.path),
        "cameras": digest(cameras),
        "candidates": digest(
            [[q, *([c.cutout, c.score] for c in found)] for q, found in setting.ranked.items()]
        ),
    }


def pose_query(method: Method, setting: Setting, files: MatchedCutouts, name: str) -> QueryPoses:
    """Find the poses of one query by a method."""
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
    """Estimate by Direct PE: all matches with the best retrieved cutout."""
    best = candidates[0]
    found = files.between(query, best.cutout)
    pose = pose_of_matches(setting, query, [found], best, setting.options.max_angle)
    return [from_visible_points(setting, files, query, pose)]


def sparse_poses(
    setting: Setting, files: MatchedCutouts, query: str, candidates: Sequence[Candidate]
) -> list[RankedPose]:
    """Estimate by Sparse PE, or Dense PE: verify spatially, rerank, and pose by each of the best.

    The pose of most inliers comes first. A candidate is ranked by its retrieval score plus the
    number of its verified matches.
    """
    verified = [verified_spatially(setting.options, files, query, c.cutout) for c in candidates]
    scores = [c.score + len(found) for c, found in zip(candidates, verified, strict=True)]
    best = np.argsort(-np.array(scores), kind="stable")[: setting.options.num_poses]
    shown = [replace(c, score=score) for c, score in zip(candidates, scores, strict=True)]
    max_angle = setting.options.max_angle
    poses = [pose_of_matches(setting, query, [verified[k]], shown[k], max_angle) for k in best]
    poses.sort(key=lambda p: (p.pose is None, -p.num_inliers))
    return [from_visible_points(setting, files, query, poses[0]), *poses[1:]]


def pooled_poses(
    setting: Setting, files: MatchedCutouts, query: str, candidates: Sequence[Candidate]
) -> list[RankedPose]:
    """Estimate by Pooled PE, as hloc does: one pose from the matches with all candidates."""
    found = [files.between(query, c.cutout) for c in candidates]
    # The cutout to show is the one that gives most matches.
    most = max(range(len(found)), key=lambda k: len(found[k]))
    camera = setting.cameras[query]
    pixels = setting.options.pooled_error * max(camera.width, camera.height) / REFERENCE_WIDTH
    max_angle = math.degrees(math.atan(pixels / camera.mean_focal_length()))
    return [pose_of_matches(setting, query, found, candidates[most], max_angle)]


METHODS: dict[str, Method] = {
    "direct": direct_poses,
    "sparse": sparse_poses,
    "dense": sparse_poses,  # the features make the difference
    "pooled": pooled_poses,
}


REFINING = threading.Lock()  # refinement has torch use all threads, or one, as a whole


def pose_of_matches(
    setting: Setting,
    query: str,
    found: Sequence[CutoutMatches],
    shown: Candidate,
    max_angle: float,
) -> RankedPose:
    """Estimate a pose from the matches with one cutout, or several."""
    moved = [refined(setting.refine, query, some) for some in found]
    xy = np.concatenate([some.xy0 for some in moved])
    xyz = np.concatenate([some.xyz for some in moved])
    known = np.isfinite(xyz).all(axis=1)
    pose, inliers = pose_within_angle(
        setting.options, xy[known], xyz[known], setting.cameras[query], max_angle
    )
    return RankedPose(
        cutout=shown.cutout,
        pose=None if pose is None else pose_numbers(pose),
        num_matches=int(known.sum()),
        num_inliers=inliers,
        score=shown.score,
    )


def refined(refine: PairRefiner | None, query: str, found: CutoutMatches) -> CutoutMatches:
    """Move the query's keypoints of matches to where the cutout's are seen.

    The cutout's stay, and with them the points that were looked up for them.
    """
    if refine is None or len(found) == 0:
        return found
    with REFINING:
        _, moved = refine(
            (found.cutout, query), found.xy1.astype(np.float32), found.xy0.astype(np.float32)
        )
    return replace(found, xy0=moved.astype(float))


def fitting_matches(
    setting: Setting, query: str, pose: RankedPose, found: CutoutMatches
) -> Bool[np.ndarray, " K"]:
    """Mask of the matches whose point is seen near the query's keypoint."""
    camera = setting.cameras[query]
    projected = project_points(pose.cam_from_world, camera, found.xyz)
    max_error = camera.mean_focal_length() * math.tan(math.radians(setting.options.max_angle))
    return np.linalg.norm(projected - found.xy0, axis=1) <= max_error


def from_visible_points(
    setting: Setting, files: MatchedCutouts, query: str, best: RankedPose
) -> RankedPose:
    """Estimate a pose again from all points that its cutout shows, where that is asked for."""
    refine = setting.refine
    if refine is None or not setting.options.refit_best or best.pose is None:
        return best
    camera, pair = setting.cameras[query], (best.cutout, query)
    keypoints, xyz = files.points_of(best.cutout)
    matches = files.between(query, best.cutout)
    near = matches[fitting_matches(setting, query, best, matches)]

    def search(index: Index, expected: Places) -> tuple[Places, Found]:
        with REFINING:
            return refine.search(pair, keypoints[index], expected, (near.xy1, near.xy0))

    pose = pose_of_visible_points(best.cam_from_world, camera, xyz, search)
    return replace(best, pose=pose_numbers(pose))


def pose_within_angle(
    options: PoseOptions,
    xy: Float[np.ndarray, "K 2"],
    xyz: Float[np.ndarray, "K 3"],
    camera: pycolmap.Camera,
    max_angle: float,
) -> tuple[pycolmap.Rigid3d | None, int]:
    """Estimate a pose by P3P in LO-RANSAC: building to camera, or None; and the number of inliers.

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
