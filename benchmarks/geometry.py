"""How many matches hold, and how good poses are: estimators of two-view geometry side by side.

    python benchmarks/geometry.py --images IMAGES --calibrations FOLDER --features FEATURES.h5 ...
    python benchmarks/geometry.py --images IMAGES --pairs PAIRS.txt --features FEATURES.h5 ...

Pairs with known poses come from a list in the form of pipelines/relative_pose.py, or are all pairs
of images that FOLDER holds a calibration_NAME.h5 of (K, R, T), as in the Image Matching Challenge.
The old way is COLMAP's estimator on matches by ratio, twice where keypoints are refined. Several
matchers are compared in one run by naming them, `--matcher nearest lightglue`. A match is right
within so many pixels of its epipolar lines; seconds are processor time on one thread, from matches
on, without reading images.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch

from d2_hloc.benchmarks.relative_pose.data import PosedPair, read_posed_pairs
from d2_hloc.benchmarks.relative_pose.scores import pinhole_camera
from d2_hloc.core import pose_metrics
from d2_hloc.core.pixels import from_colmap, to_colmap
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap, quiet
from d2_hloc.matching.guided import homogeneous
from d2_hloc.matching.match_pairs import (
    CACHE_BYTES,
    check_learned_from,
    create_matcher,
    feature_of,
)
from d2_hloc.matching.options import GuidedOptions, MatchingOptions
from d2_hloc.refinement.matches import PairRefiner
from d2_hloc.refinement.options import RefinementOptions, SpreadingOptions
from d2_hloc.refinement.shallow_maps import resize_max_of
from d2_hloc.sfm.options import VerificationOptions
from d2_hloc.sfm.two_view import by_colmap, cross
from d2_hloc.sfm.two_views.refined_pair import verify_refined
from d2_hloc.sfm.verification import GUIDED_BAND, PairToVerify, verify_one

PIXELS, DEGREES = (1, 2, 4), (5, 10, 20)
OLD = VerificationOptions(estimator="colmap")
NEW = VerificationOptions(estimator="poselib")
GUIDED = replace(NEW, guided=GuidedOptions(enabled=True))
MATCHERS = ("nearest", "lightglue")
WAYS = {"colmap": OLD, "poselib": NEW, "guided": GUIDED}
SPREAD = "spread"  # refined first, and spread: it has no row before refinement


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """One pair, matched."""

    posed: PosedPair
    pair: PairToVerify
    refine: Callable[..., tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Scores of one pair by one estimator."""

    errors: np.ndarray  # (K,) pixels from the true epipolar lines
    pose_error: float  # degrees
    seconds: float


def calibrated_pairs(folder: Path, names: list[str]) -> list[PosedPair]:
    """All pairs of the images that there are calibrations of."""
    known = {}
    for name in names:
        path = folder / f"calibration_{Path(name).stem}.h5"
        if path.is_file():
            with h5py.File(path) as file:
                known[name] = {key: file[key][()] for key in "KRT"}
    pairs = []
    for (name0, a), (name1, b) in itertools.combinations(known.items(), 2):
        relative = np.eye(4)
        relative[:3, :3] = b["R"] @ a["R"].T
        relative[:3, 3] = b["T"] - relative[:3, :3] @ a["T"]
        pairs.append(
            PosedPair(
                name0=name0,
                name1=name1,
                quarter_turns=(0, 0),
                intrinsics0=a["K"],
                intrinsics1=b["K"],
                cam1_from_cam0=relative,
            )
        )
    return pairs


def read_inputs(
    features: Path, images: Path, posed: list[PosedPair], matching: MatchingOptions
) -> Iterator[Inputs]:
    """Match the pairs."""
    resize_max = resize_max_of(features)
    refiner = PairRefiner(RefinementOptions(enabled=True), images, resize_max)
    with features_h5.open_h5(features) as file:
        names = {n for p in posed for n in p.names}
        found = {n: features_h5.features_of(file, n) for n in names}
        sizes = {n: features_h5.image_size_of(file, n) for n in names}
        matcher = create_matcher(matching, feature_of(features))
        prepared = matcher.cache(file, CACHE_BYTES)
        matched = [matcher.match(*(prepared[n] for n in p.names)) for p in posed]
    for pair, matches in zip(posed, matched, strict=True):
        name0, name1 = pair.names
        first, second = found[name0], found[name1]
        cameras = (
            pinhole_camera(pair.intrinsics0, sizes[name0]),
            pinhole_camera(pair.intrinsics1, sizes[name1]),
        )
        for known in cameras:
            known.has_prior_focal_length = True
        edges = [max(sizes[n]) for n in pair.names]
        to_verify = PairToVerify(
            keypoints=(
                to_colmap(first.keypoints.numpy().astype(float)),
                to_colmap(second.keypoints.numpy().astype(float)),
            ),
            cameras=cameras,
            pairs=matches.pairs.numpy(),
            noise=float(np.mean([max(1.0, e / (resize_max or e)) for e in edges])),
            descriptors=(
                first.descriptors.float().numpy(),
                second.descriptors.float().numpy(),
            ),
        )
        one = np.zeros((1, 2))
        refiner.search(pair.names, one, one, (one, one))  # reads the maps
        yield Inputs(posed=pair, pair=to_verify, refine=refiner.search)


def run_way(options: VerificationOptions, inputs: Inputs) -> tuple[Row, Row]:
    """Scores before and after refinement."""
    begin = time.process_time()
    geometry, pair = first_look(options, inputs.pair), inputs.pair
    first = score(inputs, pair, geometry, time.process_time() - begin)
    matches = geometry.inlier_matches.astype(np.int64).reshape(-1, 2)
    if not len(matches):
        return first, first
    xy0, xy1 = (from_colmap(xy[i]) for xy, i in zip(pair.keypoints, matches.T, strict=True))
    moved, _ = inputs.refine(inputs.posed.names, xy0, xy1, (xy0, xy1))
    keypoints1 = pair.keypoints[1].copy()
    keypoints1[matches[:, 1]] = to_colmap(moved)
    again = replace(pair, keypoints=(pair.keypoints[0], keypoints1), descriptors=None)
    if options.estimator == "colmap":
        geometry = first_look(options, again)
    else:
        geometry = verify_one(options, replace(again, pairs=matches, start=geometry), 0, 0.0)
    return first, score(inputs, again, geometry, time.process_time() - begin)


def run_spread(inputs: Inputs) -> Row:
    """Scores where matches are refined first, and spread around the inliers."""

    def search(
        xy0: np.ndarray, xy1: np.ndarray, around: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        return inputs.refine(inputs.posed.names, xy0, xy1, around)

    begin = time.process_time()
    found = verify_refined(NEW, SpreadingOptions(), inputs.pair, search)
    moved = replace(inputs.pair, keypoints=(inputs.pair.keypoints[0], found.keypoints1))
    return score(inputs, moved, found.geometry, time.process_time() - begin)


def first_look(options: VerificationOptions, pair: PairToVerify) -> pycolmap.TwoViewGeometry:
    """The geometry from all matches."""
    if options.estimator == "colmap":
        return by_colmap(options, pair.points(pair.pairs), pair.pairs, 0)
    if not options.guided.enabled:
        pair = replace(pair, descriptors=None)
    return verify_one(options, pair, 0, GUIDED_BAND * options.max_error)


def score(
    inputs: Inputs, pair: PairToVerify, geometry: pycolmap.TwoViewGeometry, seconds: float
) -> Row:
    """Hold inliers and pose to the truth."""
    truth, posed = inputs.posed.cam1_from_cam0, inputs.posed
    matrices = posed.intrinsics0, posed.intrinsics1
    essential = cross(truth[:3, 3]) @ truth[:3, :3]
    fundamental = np.linalg.inv(matrices[1]).T @ essential @ np.linalg.inv(matrices[0])
    points = pair.points(geometry.inlier_matches.astype(np.int64).reshape(-1, 2))
    xy0, xy1 = (homogeneous(from_colmap(xy)) for xy in (points.xy0, points.xy1))
    lines1, lines0 = xy0 @ fundamental.T, xy1 @ fundamental
    shorter = np.minimum(*(np.linalg.norm(lines[:, :2], axis=1) for lines in (lines0, lines1)))
    errors = np.abs((xy1 * lines1).sum(axis=1)) / shorter
    pose, pose_error = geometry.cam2_from_cam1, 180.0
    if len(errors) and pose is not None and np.any(pose.translation):
        pose_error = max(
            pose_metrics.rotation_error(pose.rotation.matrix(), truth[:3, :3]),
            pose_metrics.direction_error(pose.translation, truth[:3, 3]),
        )
    return Row(errors=errors, pose_error=pose_error, seconds=seconds)


def line(name: str, rows: list[Row]) -> str:
    """Means over pairs, as a row of the table."""
    counts = [np.mean([len(r.errors) for r in rows])]
    counts += [np.mean([(r.errors < p).sum() for r in rows]) for p in PIXELS]
    precision = np.mean([(r.errors < 2).mean() if len(r.errors) else 0 for r in rows])
    poses = [np.mean([r.pose_error < d for r in rows]) for d in DEGREES]
    seconds = np.mean([r.seconds for r in rows])
    numbers = [*(f"{c:.0f}" for c in counts), f"{precision:.3f}", *(f"{p:.2f}" for p in poses)]
    return f"|{name}|{'|'.join(numbers)}|{seconds:.3f}|"


def rows_of(ways: list[str], inputs: Inputs) -> Iterator[tuple[str, Row]]:
    """Scores of a pair by each way, before refinement and after it."""
    for way in ways:
        if way == SPREAD:
            yield way, run_spread(inputs)
        else:
            first, refined = run_way(WAYS[way], inputs)
            yield way, first
            yield f"{way}, refined", refined


def main() -> None:
    """Print the table, a block for each features file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--calibrations", type=Path, help="folder of calibration_NAME.h5")
    parser.add_argument("--pairs", type=Path, help="list with poses, as pipelines/relative_pose.py")
    parser.add_argument("--features", type=Path, required=True, nargs="+")
    ways = [*WAYS, SPREAD]
    parser.add_argument("--ways", choices=ways, nargs="+", default=ways)
    parser.add_argument("--matcher", choices=MATCHERS, nargs="+", default=["nearest"])
    parser.add_argument("--ratio", type=float, default=0.95, help="of nearest; 1: none")
    parser.add_argument("--weights", default=MatchingOptions.weights, help="of lightglue")
    parser.add_argument("--min-score", type=float, help="of lightglue")
    parser.add_argument("--min-support", type=float, help="of lightglue; 0: the network alone")
    args = parser.parse_args()
    if (args.pairs is None) == (args.calibrations is None):
        parser.error("give either --pairs or --calibrations")
    quiet()
    torch.set_num_threads(1)
    print("|estimator|matches|<1 px|<2 px|<4 px|precision|<5°|<10°|<20°|s a pair|")
    print("|---|" + "---:|" * 9)
    for features in args.features:
        posed = (
            read_posed_pairs(args.pairs)
            if args.pairs
            else calibrated_pairs(args.calibrations, features_h5.extracted_names(features))
        )
        for matcher in args.matcher:
            try:
                check_learned(features, matcher)
            except ValueError as error:
                print(error)
                continue
            rows: dict[str, list[Row]] = {}
            for inputs in read_inputs(features, args.images, posed, matching_of(matcher, args)):
                for name, row in rows_of(args.ways, inputs):
                    rows.setdefault(f"{features.stem}, {matcher}: {name}", []).append(row)
            print(*(line(name, found) for name, found in rows.items()), sep="\n", flush=True)


def check_learned(features: Path, matcher: str) -> None:
    """Raise ValueError, in a sentence, if the matcher is not of these features."""
    if matcher == "lightglue":
        check_learned_from(features, feature_of(features))


def matching_of(
    matcher: Literal["nearest", "lightglue"], args: argparse.Namespace
) -> MatchingOptions:
    """Options of a matcher, from the arguments that are its own."""
    if matcher == "nearest":
        return MatchingOptions(ratio_threshold=args.ratio if args.ratio < 1 else None)
    return MatchingOptions(
        matcher=matcher,
        weights=args.weights,
        min_score=args.min_score,
        min_support=args.min_support,
    )


if __name__ == "__main__":
    main()
