"""Queries + matches with cutouts + the cutouts' points -> poses: Direct, Sparse and Pooled PE.

Taira et al., "InLoc", CVPR 2018; Dusmanu et al., "D2-Net", CVPR 2019, Section 5.3.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from d2_hloc import config, storage
from d2_hloc.colmap import pycolmap
from d2_hloc.datasets.image_lists import Candidate, Ranked
from d2_hloc.inloc_poses import PoseStore, QueryPoses, RankedPose, digest, pose_numbers
from d2_hloc.keypoint_refinement import PairRefiner
from d2_hloc.localization import FEWEST, absolute_pose
from d2_hloc.matching import MatchingOptions
from d2_hloc.pair_matching import match
from d2_hloc.pairs import Pair
from d2_hloc.pixels import from_colmap
from d2_hloc.polishing import polish_pose
from d2_hloc.threads import in_threads
from d2_hloc.verification import VerificationOptions, verify

REFERENCE_WIDTH = 4032  # pixels of InLoc's queries, which thresholds in pixels are given for
EXTRACTED_EDGE = 1600  # pixels; larger images are reduced to it before extraction


@dataclass(frozen=True, kw_only=True)
class PoseOptions:
    """How many candidates, and what counts as an inlier.

    `max_angle`: degrees between a keypoint's ray and its point, of Direct and Sparse PE.
    `pooled_error`: pixels of a query 4032 wide, of Pooled PE; less in a smaller one.
    `num_candidates` are matched, `num_poses` of those estimated by Sparse PE.
    `enough_inliers`: a query with so many verified matches with one of its first `num_first`
    candidates is matched with no further ones.
    `polish`: where keypoints are refined, the best pose of Direct and Sparse PE is found again from
    all points of its cutout that the query shows.
    """

    num_candidates: int = 100
    num_poses: int = 10
    max_angle: float = 1.0
    pooled_error: float = 48.0
    min_num_inliers: int = FEWEST
    enough_inliers: int | None = None
    num_first: int = 10
    polish: bool = True
    random_seed: int = 0
    verification: VerificationOptions = field(default_factory=VerificationOptions)

    def __post_init__(self) -> None:
        for name in ("num_candidates", "num_poses", "max_angle", "pooled_error"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class PairMatches:
    """Matches of a query with a cutout, pixels of the original images, and the cutout's points."""

    cutout: str
    xy0: Float[np.ndarray, "K 2"]  # in the query
    xy1: Float[np.ndarray, "K 2"]  # in the cutout
    scales0: Float[np.ndarray, " K"]
    scales1: Float[np.ndarray, " K"]
    xyz: Float[np.ndarray, "K 3"]  # metres, in the building's frame; NaN where there is no depth

    def __len__(self) -> int:
        return len(self.xy0)

    def __getitem__(self, chosen: np.ndarray) -> PairMatches:
        """Some of them, by mask or index."""
        arrays = {k: v[chosen] for k, v in vars(self).items() if k != "cutout"}
        return PairMatches(cutout=self.cutout, **arrays)


class MatchedCutouts:
    """The matches of pairs, from the open files of features, matches and points."""

    def __init__(self, features: h5py.File, matches: h5py.File, points: h5py.File) -> None:
        self._features, self._matches, self._points = features, matches, points

    def has_features(self, name: str) -> bool:
        return name in self._features

    def has_points(self, cutout: str) -> bool:
        return cutout in self._points and cutout in self._features

    def between(self, query: str, cutout: str) -> PairMatches:
        """Matches of a pair whose cutout has points.

        Raises:
            StorageError: if the pair was not matched.
        """
        index0, index1 = storage.matches_of(self._matches, query, cutout).pairs.numpy().T
        (xy0, scales0), (xy1, scales1) = (self._keypoints(name) for name in (query, cutout))
        return PairMatches(
            cutout=cutout,
            xy0=xy0[index0],
            xy1=xy1[index1],
            scales0=scales0[index0],
            scales1=scales1[index1],
            xyz=self._points[cutout]["points"][()][index1],
        )

    def points_of(self, cutout: str) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 3"]]:
        """All keypoints of a cutout that has points, and the points; NaN where there is none."""
        return self._keypoints(cutout)[0], self._points[cutout]["points"][()].astype(float)

    def _keypoints(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        xy = storage.keypoints_of(self._features, name).astype(float)
        group = self._features[name]
        return xy, group["scales"][()] if "scales" in group else np.ones(len(xy))


@contextmanager
def open_matched(features: Path, matches: Path, points: Path) -> Iterator[MatchedCutouts]:
    """Open the three files of a run.

    Raises:
        StorageError: if one of them cannot be used.
    """
    with (
        storage.open_h5(features) as feature_file,
        storage.open_h5(matches) as match_file,
        storage.open_h5(points) as point_file,
    ):
        yield MatchedCutouts(feature_file, match_file, point_file)


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


def match_candidates(
    options: PoseOptions,
    matching: MatchingOptions,
    ranked: Ranked,
    features: Path,
    points: Path,
    output: Path,
) -> Ranked:
    """Match each query with its candidates into `output`; those that remain of the lists.

    With `enough_inliers`, queries that have so many at once keep only their first candidates.
    """
    if options.enough_inliers is None:
        match(matching, _pairs(ranked, points), features, output)
        return ranked
    first = {query: found[: options.num_first] for query, found in ranked.items()}
    match(matching, _pairs(first, points), features, output)
    more = {q: found for q, found in ranked.items() if len(found) > len(first[q])}
    with open_matched(features, output, points) as files:
        more = {
            q: all_of for q, all_of in more.items() if not _has_enough(options, files, q, first[q])
        }
    match(matching, _pairs(first | more, points), features, output)
    return first | more


def _has_enough(
    options: PoseOptions, files: MatchedCutouts, query: str, first: Sequence[Candidate]
) -> bool:
    """Has one of these candidates so many verified matches that it is the right one?"""
    usable = [c.cutout for c in first if files.has_features(query) and files.has_points(c.cutout)]
    return any(
        len(verified_matches(options, files, query, cutout)) >= options.enough_inliers
        for cutout in usable
    )


def _pairs(ranked: Ranked, points: Path) -> list[Pair]:
    """All queries with their candidates, but for those whose points are not known."""
    with storage.open_h5(points) as file:
        return [(q, c.cutout) for q, found in ranked.items() for c in found if c.cutout in file]


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
        "matches": storage.configuration(setting.matches),
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


def verified_matches(
    options: PoseOptions, files: MatchedCutouts, query: str, cutout: str
) -> PairMatches:
    """The matches of a pair that lie on its homographies."""
    found = files.between(query, cutout)
    return found[verify(options.verification, found.xy0, found.xy1, found.scales0, found.scales1)]


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
