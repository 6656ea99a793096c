"""Pairs with known relative pose + features.h5 + matches.h5 -> errors of poses (a step)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from d2_hloc.benchmarks.hpatches.scores import keypoints_of, matched_keypoints
from d2_hloc.benchmarks.relative_pose.data import PosedPair
from d2_hloc.core import pose_metrics
from d2_hloc.core.pixels import to_colmap
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap

logger = logging.getLogger(__name__)

FEWEST = 5  # matches that determine an essential matrix


@dataclass(frozen=True, kw_only=True)
class RelativePoseOptions:
    """`max_error`: largest epipolar error, in pixels, of an inlier."""

    max_error: float = 1.0

    def __post_init__(self) -> None:
        if self.max_error <= 0:
            raise ValueError(f"max_error must be positive, not {self.max_error}.")


@dataclass(frozen=True, kw_only=True)
class PoseScore:
    """What one pair came to; errors in degrees, infinite without a pose."""

    name0: str
    name1: str
    num_matches: int
    num_inliers: int
    rotation_error: float
    direction_error: float

    @property
    def error(self) -> float:
        """The larger of the two."""
        return max(self.rotation_error, self.direction_error)


def estimate_poses(
    options: RelativePoseOptions, pairs: Sequence[PosedPair], features: Path, matches: Path
) -> list[PoseScore]:
    """Estimate the pose of each pair that was matched, and measure it.

    Raises:
        StorageError: if a features or matches file cannot be used.
    """
    failed = features_h5.read_failures(matches)
    todo = [pair for pair in pairs if " ".join(pair.names) not in failed]
    turned = sum(any(pair.quarter_turns) for pair in todo)
    if turned:
        logger.warning("%d pairs have an image that is stored turned; it is taken as it is", turned)
    scores = []
    with (
        features_h5.open_h5(features) as features_file,
        features_h5.open_h5(matches) as matches_file,
    ):
        for pair in tqdm(todo, desc="estimate", unit="pair"):
            keypoints = [keypoints_of(features_file, name) for name in pair.names]
            found = features_h5.matches_of(matches_file, *pair.names)
            xy0, xy1 = matched_keypoints(pair.names, *keypoints, found)
            sizes = [features_h5.image_size_of(features_file, n) for n in pair.names]
            scores.append(score_pair(options, pair, xy0, xy1, *sizes))
    return scores


def score_pair(
    options: RelativePoseOptions,
    pair: PosedPair,
    xy0: np.ndarray,
    xy1: np.ndarray,
    size0: tuple[int, int],
    size1: tuple[int, int],
) -> PoseScore:
    """Estimate and measure one pose from matched keypoints (K, 2); sizes are (w, h)."""
    camera0, camera1 = camera(pair.intrinsics0, size0), camera(pair.intrinsics1, size1)
    found = None
    if len(xy0) >= FEWEST:
        ransac = pycolmap.RANSACOptions(max_error=options.max_error, random_seed=0)
        found = pycolmap.estimate_essential_matrix(
            to_colmap(xy0), to_colmap(xy1), camera0, camera1, ransac
        )
    rotation_error = direction_error = np.inf
    if found is not None:
        pose, truth = found["cam2_from_cam1"], pair.cam1_from_cam0
        rotation_error = pose_metrics.rotation_error(pose.rotation.matrix(), truth[:3, :3])
        direction_error = pose_metrics.direction_error(pose.translation, truth[:3, 3])
    return PoseScore(
        name0=pair.name0,
        name1=pair.name1,
        num_matches=len(xy0),
        num_inliers=0 if found is None else int(found["num_inliers"]),
        rotation_error=rotation_error,
        direction_error=direction_error,
    )


def camera(intrinsics: np.ndarray, size: tuple[int, int]) -> pycolmap.Camera:
    """COLMAP's camera of intrinsics (3, 3); size is (w, h)."""
    centre = to_colmap(intrinsics[:2, 2])
    params = [intrinsics[0, 0], intrinsics[1, 1], *centre]
    return pycolmap.Camera(model="PINHOLE", width=size[0], height=size[1], params=params)
