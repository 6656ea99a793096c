"""Pairs with known homographies + features.h5 + matches.h5 -> scores.json (a step)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from d2_hloc.benchmarks.hpatches.data import HomographyPair
from d2_hloc.core import config, homography_metrics
from d2_hloc.core.pixels import to_colmap
from d2_hloc.core.structs import Matches
from d2_hloc.files import features_h5
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.provenance import ConfigurationChanged, differences
from d2_hloc.matching.pairs import Pair

THRESHOLDS = tuple(range(1, 16))  # pixels, as the cache files of other papers have them
SAVE_SECONDS = 2.0  # at most this much work is lost to a kill
FEWEST = 4  # matches that determine a homography

# Moves the matched keypoints (K, 2) of a pair of images, given by name.
Refine = Callable[[Pair, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """`threshold`: pixels within which repeatability and matching score count a keypoint as found.

    `ransac_error` is the largest error, in pixels, of a homography's inliers.
    """

    threshold: float = 3.0
    ransac_error: float = 3.0

    def __post_init__(self) -> None:
        for name in ("threshold", "ransac_error"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class PairScore:
    """What one pair of images came to."""

    sequence: str
    name0: str
    name1: str
    num_features0: int
    num_features1: int
    num_matches: int
    accuracy: tuple[float, ...]  # share of right matches at THRESHOLDS
    repeatability: float
    matching_score: float
    corner_error: float | None  # pixels; None where no homography is found


def score(
    options: ScoringOptions,
    pairs: Sequence[HomographyPair],
    features: Path,
    matches: Path,
    output: Path,
    refine: Refine | None = None,
) -> list[PairScore]:
    """Score the pairs that were matched, one at a time, into `output`; those that are done stay.

    `refine` may move matched keypoints before their errors are measured.

    Raises:
        StorageError: if a features or matches file cannot be used.
        ConfigurationChanged: if `output` was made with another configuration.
    """
    made_by = {
        "scoring": config.to_dict(options),
        "is_refined": refine is not None,
        "matches": features_h5.read_configuration(matches),
    }
    done = read_scores(output, made_by)
    failed = features_h5.read_failures(matches)
    todo = [p for p in pairs if p.names not in done and " ".join(p.names) not in failed]
    since = time.monotonic()
    with (
        features_h5.open_h5(features) as features_file,
        features_h5.open_h5(matches) as matches_file,
    ):
        for pair in tqdm(todo, desc="score", unit="pair", disable=not todo):
            done[pair.names] = score_pair(options, pair, features_file, matches_file, refine)
            if time.monotonic() - since > SAVE_SECONDS:
                write_scores(output, made_by, done.values())
                since = time.monotonic()
    write_scores(output, made_by, done.values())
    return [done[pair.names] for pair in pairs if pair.names in done]


def score_pair(
    options: ScoringOptions,
    pair: HomographyPair,
    features: h5py.File,
    matches: h5py.File,
    refine: Refine | None = None,
) -> PairScore:
    """Score one pair; of its features, only the keypoints are read."""
    xy0, xy1 = (keypoints_of(features, name) for name in pair.names)
    sizes = [features_h5.image_size_of(features, name) for name in pair.names]
    matched0, matched1 = matched_keypoints(
        pair.names, xy0, xy1, features_h5.matches_of(matches, *pair.names), refine
    )
    errors = homography_metrics.transfer_errors(matched0, matched1, pair.homography)
    view = xy0, xy1, pair.homography, *sizes, options.threshold
    estimated = estimate_homography(matched0, matched1, options.ransac_error)
    return PairScore(
        sequence=pair.sequence,
        name0=pair.name0,
        name1=pair.name1,
        num_features0=len(xy0),
        num_features1=len(xy1),
        num_matches=len(errors),
        accuracy=tuple(homography_metrics.matching_accuracy(errors, THRESHOLDS)),
        repeatability=homography_metrics.repeatability(*view),
        matching_score=homography_metrics.matching_score(errors, *view),
        corner_error=_corner_error(estimated, pair.homography, sizes[0]),
    )


def keypoints_of(features: h5py.File, name: str) -> np.ndarray:
    """Keypoints (N, 2) of an image, float64."""
    return features_h5.keypoints_of(features, name).astype(np.float64)


def matched_keypoints(
    names: Pair,
    keypoints0: np.ndarray,
    keypoints1: np.ndarray,
    matches: Matches,
    refine: Refine | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Row by row the two ends of each match (K, 2), moved by `refine`."""
    index = matches.pairs.numpy()
    xy0, xy1 = keypoints0[index[:, 0]], keypoints1[index[:, 1]]
    return (xy0, xy1) if refine is None else refine(names, xy0, xy1)


def estimate_homography(xy0: np.ndarray, xy1: np.ndarray, max_error: float) -> np.ndarray | None:
    """The homography (3, 3) of most inliers, by COLMAP's LO-RANSAC; None where there is none."""
    if len(xy0) < FEWEST:
        return None
    options = pycolmap.RANSACOptions(max_error=max_error, random_seed=0)
    found = pycolmap.estimate_homography_matrix(to_colmap(xy0), to_colmap(xy1), options)
    if found is None:
        return None
    shift = np.eye(3)
    shift[:2, 2] = to_colmap(np.zeros(2))
    return np.linalg.inv(shift) @ found["H"] @ shift


def _corner_error(
    estimated: np.ndarray | None, truth: np.ndarray, size: tuple[int, int]
) -> float | None:
    if estimated is None:
        return None
    error = homography_metrics.corner_error(estimated, truth, size)
    return error if np.isfinite(error) else None


def read_scores(path: Path, configuration: Mapping[str, Any]) -> dict[Pair, PairScore]:
    """The scores that a file holds; none where there is no file.

    Raises:
        ConfigurationChanged: if it was made with another configuration.
        ValueError: if it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
        there, now = differences(content["configuration"], json.loads(json.dumps(configuration)))
        found = [PairScore(**{**s, "accuracy": tuple(s["accuracy"])}) for s in content["pairs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is damaged; delete it and run again.") from error
    if there != now:
        raise ConfigurationChanged(
            f"{path}: was made with another configuration. There: {json.dumps(there)}. "
            f"Now: {json.dumps(now)}. Choose another output, or delete it."
        )
    return {(s.name0, s.name1): s for s in found}


def write_scores(path: Path, configuration: Mapping[str, Any], scores: Any) -> None:
    """Write all scores, the file whole or not at all."""
    content = {"configuration": configuration, "pairs": [asdict(s) for s in scores]}
    write_atomically(path, json.dumps(content).encode())
