"""Errors of the relative poses of pairs, estimated from their matches (a step)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from d2_hloc.benchmarks.pair_scores import (
    MatchedPair,
    PairScore,
    Refine,
    pair_store,
    score_pairs,
)
from d2_hloc.benchmarks.relative_pose.data import PosedPair
from d2_hloc.core import config, pose_metrics
from d2_hloc.core.pixels import to_colmap
from d2_hloc.core.ranges import PIXELS, check_ranges
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap
from d2_hloc.matching.match_pairs import MatchedPairs

logger = logging.getLogger(__name__)

FEWEST = 5  # matches that determine an essential matrix


@dataclass(frozen=True, kw_only=True)
class RelativePoseOptions:
    """Estimation of a pose: inliers have an epipolar error of at most `max_error` pixels.

    Attributes:
        max_error: largest epipolar error of an inlier, pixels.
    """

    max_error: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, max_error=PIXELS)


@dataclass(frozen=True, kw_only=True)
class PoseScore(PairScore):
    """Errors of one pair's pose, in degrees, infinite without a pose."""

    num_inliers: int
    rotation_error: float
    direction_error: float

    @property
    def error(self) -> float:
        """The larger of the two errors."""
        return max(self.rotation_error, self.direction_error)


def score_poses(
    options: RelativePoseOptions,
    pairs: Sequence[PosedPair],
    features: Path,
    matches: MatchedPairs,
    output: Path,
    refine: Refine | None = None,
) -> list[PoseScore]:
    """Estimate the pose of each pair that was matched, and measure it, into `output`.

    Pairs that are done are left alone. `refine` moves the matched keypoints before.

    Raises:
        StorageError: if a features or matches file cannot be used.
        ConfigurationChanged: if `output` was made with another configuration.
    """
    turned = [p for p in pairs if any(p.quarter_turns) and p.names not in matches.failures]
    if turned:
        text = "%d pairs have an image that is stored turned; it is taken as it is"
        logger.warning(text, len(turned))
    made_by = {
        "estimation": config.to_dict(options),
        "is_refined": refine is not None,
        "matches": features_h5.read_configuration(matches.path),
    }
    store = pair_store(output, made_by, PoseScore, matches.path)
    return score_pairs(pairs, features, matches, store, partial(score_pose, options), refine)


def score_pose(options: RelativePoseOptions, pair: PosedPair, found: MatchedPair) -> PoseScore:
    """Estimate one pose from matched keypoints, and measure it."""
    xy0, xy1 = found.matched
    size0, size1 = found.sizes
    camera0, camera1 = (
        pinhole_camera(pair.intrinsics0, size0),
        pinhole_camera(pair.intrinsics1, size1),
    )
    estimated = None
    if len(xy0) >= FEWEST:
        ransac = pycolmap.RANSACOptions(max_error=options.max_error, random_seed=0)
        estimated = pycolmap.estimate_essential_matrix(
            to_colmap(xy0), to_colmap(xy1), camera0, camera1, ransac
        )
    rotation_error = direction_error = np.inf
    if estimated is not None:
        pose, truth = estimated["cam2_from_cam1"], pair.cam1_from_cam0
        rotation_error = pose_metrics.rotation_error(pose.rotation.matrix(), truth[:3, :3])
        direction_error = pose_metrics.direction_error(pose.translation, truth[:3, 3])
    return PoseScore(
        name0=pair.name0,
        name1=pair.name1,
        num_matches=len(xy0),
        num_inliers=0 if estimated is None else int(estimated["num_inliers"]),
        rotation_error=rotation_error,
        direction_error=direction_error,
    )


def pinhole_camera(intrinsics: Float[np.ndarray, "3 3"], size: tuple[int, int]) -> pycolmap.Camera:
    """Make COLMAP's camera of intrinsics; size is (w, h)."""
    centre = to_colmap(intrinsics[:2, 2])
    params = [intrinsics[0, 0], intrinsics[1, 1], *centre]
    return pycolmap.Camera(model="PINHOLE", width=size[0], height=size[1], params=params)
