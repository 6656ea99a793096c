"""Measure what each part of refinement brings: a table of variants on a scene with known poses.

Every variant moves the same keypoints, verifies the same matches and maps anew; its errors are
those of the camera centres after alignment with the ground truth. Times are processor seconds on
one thread, and a share of the extraction's.

    python benchmarks/refinement.py SCENE OUT --resize-max 1024

SCENE holds images/ and ground_truth.txt, lines of `name w h fx fy cx cy qw qx qy qz tx ty tz`.
The table is written to OUT/refinement.md, a line at a time; a line that is there is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from d2_hloc.features.extraction import extract
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files import features_h5
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.colmap import pycolmap, quiet
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.staged_h5 import Staged, Value
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.matching.pairs import exhaustive
from d2_hloc.matching.tracks import Tracks, build_tracks
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.refinement.patches import Outcome
from d2_hloc.refinement.shallow_maps import CACHE_BYTES, MapReader
from d2_hloc.refinement.tracks import jobs_of, move_pairs, put_together
from d2_hloc.sfm import pose_errors
from d2_hloc.sfm.cameras.intrinsics import Intrinsics
from d2_hloc.sfm.cameras.sharing import cameras_of
from d2_hloc.sfm.correspondences import observations
from d2_hloc.sfm.database import build_database, verified_matches, verify_geometry
from d2_hloc.sfm.mapping import (
    map_images,
)
from d2_hloc.sfm.options import ReconstructionOptions
from d2_hloc.sfm.outcome.statistics import model_statistics
from d2_hloc.sfm.poses_file import read_poses

BASE = RefinementOptions(enabled=True)
COLUMNS = (
    "variant|moved|points|track|reprojection, px|centres, mm|rotation, deg|time, s|of extraction"
)

Keypoints = dict[str, torch.Tensor]


def variants() -> dict[str, RefinementOptions]:
    """Each differs from the default in one thing."""
    changes: dict[str, dict[str, object]] = {
        "default": {},
        "conv2_2 alone": {"fine_window": 0},
        "conv1_2 always has the last word": {"fine_score": -1.0},
        "conv1_2 above a cosine of .8": {"fine_score": 0.8},
        "patches not warped": {"neighbours": 0},
        "affinities of 8 neighbours": {"neighbours": 8},
        "coarse patch 5 x 5": {"coarse_patch": 2},
        "coarse patch 11 x 11": {"coarse_patch": 5},
        "fine patch 7 x 7": {"fine_patch": 3},
        "coarse window +-4 px": {"coarse_window": 2},
        "coarse window +-10 px": {"coarse_window": 5},
        "ambiguous peaks count": {"ambiguity": 0.0},
    }
    return {name: dataclasses.replace(BASE, **change) for name, change in changes.items()}


class Bench:
    """A scene's features, matches and tracks, made once."""

    def __init__(self, scene: Path, output: Path, resize_max: int) -> None:
        self.images, self.output = scene / "images", output
        self.truth_file = scene / "ground_truth.txt"
        self.truth = read_poses(self.truth_file)
        self.features, self.matches = Outputs(output).features, Outputs(output).matches
        self.extraction_time = self.extract(resize_max)
        names = features_h5.extracted_names(self.features)
        self.pairs, self.cameras = (
            exhaustive(names),
            cameras_of(self.images, names, Intrinsics.read(self.truth_file)),
        )
        match(MatchingOptions(ratio_threshold=0.95), self.pairs, self.features, self.matches)
        self.verified = verified_matches(self.database(self.features), self.matches)
        with features_h5.open_h5(self.features) as file:
            keypoints = {n: features_h5.keypoints_of(file, n) for n in names}
        self.keypoints: Keypoints = {n: torch.from_numpy(xy) for n, xy in keypoints.items()}
        self.tracks = build_tracks({n: len(xy) for n, xy in keypoints.items()}, self.verified)
        self.resize_max = resize_max

    def extract(self, resize_max: int) -> float:
        """Processor seconds of the extraction, in the run that did it."""
        noted = self.output / "extraction.json"
        if not noted.is_file():
            self.features.unlink(missing_ok=True)
            start = time.process_time()
            extract(ExtractionOptions(resize_max=resize_max), self.images, self.features)
            write_atomically(noted, json.dumps(time.process_time() - start).encode())
        return float(json.loads(noted.read_text()))

    def database(self, features: Path) -> Path:
        """Verified matches of these keypoints."""
        path = features.with_suffix(".db")
        build_database(path, self.cameras, self.pairs, features, self.matches)
        verify_geometry(path, self.pairs, ReconstructionOptions(), self.matches)
        return path

    def move(
        self, options: RefinementOptions, tracks: Tracks, start: Mapping[str, torch.Tensor]
    ) -> tuple[Keypoints, dict[str, torch.Tensor], float]:
        """New keypoints, their outcomes, and the processor seconds it took."""
        maps = MapReader(self.resize_max).of(self.images, CACHE_BYTES, at_least=2)
        begin = time.process_time()
        jobs = jobs_of(tracks)
        moved = put_together(jobs, start, move_pairs(options, maps, jobs, start, self.verified))
        return *moved, time.process_time() - begin

    def map(self, keypoints: Keypoints) -> pycolmap.Reconstruction:
        """The model of these keypoints."""
        path = self.output / "variant.h5"
        path.unlink(missing_ok=True)
        with Staged(path, {}, "keypoints") as staged:
            for name, xy in keypoints.items():
                staged.add(name, {"keypoints": Value(xy.numpy())})
        known = set(self.cameras)
        sparse = self.output / "sparse"
        return map_images(ReconstructionOptions(), self.database(path), self.images, sparse, known)

    def row(self, name: str, keypoints: Keypoints, moved: float, seconds: float) -> str:
        """A line of the table."""
        model = self.map(keypoints)
        poses, found = pose_errors.model_poses(model), model_statistics(model)
        frame = pose_errors.align(poses, self.truth)
        errors = pose_errors.summarize_poses(pose_errors.pose_errors(poses, self.truth, frame))
        mean = errors.mean or pose_errors.PoseError(float("nan"), float("nan"))
        return (
            f"{name}|{moved:.3f}|{found.points}|{found.mean_track_length:.2f}|"
            f"{found.mean_reprojection_error:.3f}|{1000 * mean.metres:.2f}|"
            f"{mean.degrees:.3f}|{seconds:.1f}|"
            f"{seconds / self.extraction_time:.2f}"
        )


def share_moved(outcomes: Mapping[str, torch.Tensor]) -> float:
    """Share that moved, of the keypoints that were to."""
    found = torch.cat(list(outcomes.values()))
    return float((found == Outcome.MOVED).sum() / (found >= 0).sum())


def run_variant(bench: Bench, name: str, options: RefinementOptions) -> str:
    """One pass with these options."""
    moved, outcomes, seconds = bench.move(options, bench.tracks, bench.keypoints)
    return bench.row(name, moved, share_moved(outcomes), seconds)


def run_raw(bench: Bench) -> str:
    """Without refinement."""
    return bench.row("raw keypoints", bench.keypoints, 0.0, 0.0)


def run_other_reference(bench: Bench) -> str:
    """The reference is a track's first image by name, instead of the one of most matches."""
    order = [np.argsort(images, kind="stable") for images in bench.tracks.images]
    tracks = Tracks(
        names=bench.tracks.names,
        images=[i[o] for i, o in zip(bench.tracks.images, order, strict=True)],
        keypoints=[k[o] for k, o in zip(bench.tracks.keypoints, order, strict=True)],
    )
    moved, outcomes, seconds = bench.move(BASE, tracks, bench.keypoints)
    name = "reference: the first image by name"
    return bench.row(name, moved, share_moved(outcomes), seconds)


def run_second_pass(bench: Bench) -> str:
    """Again from the places where the first model's points project, in its own tracks."""
    moved, outcomes, seconds = bench.move(BASE, bench.tracks, bench.keypoints)
    model = bench.map(moved)
    start = {name: xy.clone() for name, xy in moved.items()}
    for name, seen in observations(model, bench.output / "variant.h5").items():
        has_point = seen.point_ids >= 0
        start[name][torch.from_numpy(has_point)] = torch.from_numpy(
            seen.projected[has_point]
        ).float()
    again, outcomes, more = bench.move(BASE, bench.tracks, start)
    return bench.row("a second pass after mapping", again, share_moved(outcomes), seconds + more)


def main() -> None:
    """Print the table as it grows, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("scene", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--resize-max", type=int, default=1024)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    quiet()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.scene, args.output, args.resize_max)
    todo: dict[str, Callable[[], str]] = {"raw keypoints": lambda: run_raw(bench)}
    for name, options in variants().items():
        todo[name] = lambda n=name, o=options: run_variant(bench, n, o)
    todo["reference: the first image by name"] = lambda: run_other_reference(bench)
    todo["a second pass after mapping"] = lambda: run_second_pass(bench)
    write_rows(args.output / "refinement.md", todo)


def write_rows(path: Path, todo: Mapping[str, Callable[[], str]]) -> None:
    """Make and add the rows that are not there yet."""
    header = [f"|{COLUMNS}|", "|---" + "|---:" * COLUMNS.count("|") + "|"]
    lines = path.read_text().splitlines() if path.is_file() else header
    for name, make in todo.items():
        if not any(line.startswith(f"|{name}|") for line in lines):
            lines.append(f"|{make()}|")
            write_atomically(path, ("\n".join(lines) + "\n").encode())
        print(next(line for line in lines if line.startswith(f"|{name}|")), flush=True)


if __name__ == "__main__":
    main()
