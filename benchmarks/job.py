"""Profile the main job: reconstruct, stage by stage, against limits measured in the same run.

    python benchmarks/job.py IMAGES OUT [--resize-max 1024] [--intrinsics FILE] [--pairs retrieval]
        [--threads 2] [--without-old]

Limits are of the processor, so that a busy machine can tell too. Those of extraction and of
refinement's maps are the trunk's multiply-adds, counted as direct convolutions, at the rate of a
large matrix product; refinement's patches, and the similarities of matching and of the search where
a model leads, are products at that rate likewise. Winograd's form and bfloat16 need less, so a
stage can stay below its limit. The limit of verification, mapping and readjustment is the time in
COLMAP's and PoseLib's own functions, and that of decoding is decoding itself, image by image.

Beside them the old way: the cores share every operation of one image, and of one pair, instead of
an image and a pair each. 'idle' is the share of the cores' time that a stage left: what other work
could have at most if it overlapped with it. 'peak' is the most memory that the process held in the
stage.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import poselib
import torch

from d2_hloc.core.images import read_image
from d2_hloc.core.listing import list_images
from d2_hloc.features import extraction
from d2_hloc.features.extraction import extract
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files import colmap, features_h5
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching import guided, match_pairs
from d2_hloc.matching.options import PairsOptions
from d2_hloc.network.d2net import D2Net
from d2_hloc.refinement import matches
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.refinement.shallow_maps import MapReader
from d2_hloc.sfm.options import Reconstruct
from d2_hloc.sfm.reconstruct import ModelRun, reconstruct

STRIDES = {"1": 1, "2": 2, "3": 4, "4": 4}  # pixels a cell of each block; the last is dilated
OLD = "the old way: "
# COLMAP's functions that compute with threads of their own, and PoseLib's, which are in ours.
OF_COLMAP = (
    "verify_matches",
    "incremental_mapping",
    "hierarchical_mapping",
    "global_mapping",
    "triangulate_points",
    "estimate_two_view_geometry",
)
OF_POSELIB = (
    "estimate_fundamental",
    "estimate_relative_pose",
    "estimate_homography",
    "refine_fundamental",
)


@dataclass
class Stage:
    """Seconds of the clock, of the processor, and of the latter in COLMAP; bytes at the peak.

    `operations` are those of the products that the stage cannot do without, as far as known.
    """

    clock: float = 0.0
    processor: float = 0.0
    in_colmap: float = 0.0
    operations: float = 0.0
    peak: int = 0


class Profile:
    """Times of stages by name, in their order, and of what was computed meanwhile."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.in_colmap = self.operations = 0.0
        self.num_maps = 0

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Add what is spent meanwhile to a stage."""
        stage = self.stages.setdefault(name, Stage())
        forget_peak()
        before = self.in_colmap, self.operations
        clock, processor = time.perf_counter(), time.process_time()
        yield
        stage.clock += time.perf_counter() - clock
        stage.processor += time.process_time() - processor
        stage.in_colmap += self.in_colmap - before[0]
        stage.operations += self.operations - before[1]
        stage.peak = max(stage.peak, peak_memory())

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note the stages of runs, COLMAP's own time, and the operations of refinement."""
        original_timed, original_read = RunRecord.timed, MapReader._read
        original_search, original_cosines = matches.refine_pairs, guided._cosines

        @contextmanager
        def timed(record: RunRecord, stage: str) -> Iterator[None]:
            with original_timed(record, stage), self.noted(stage):
                yield

        def read(reader: MapReader, path: Path, orientation: int) -> Any:
            found = original_read(reader, path, orientation)
            self.operations += operations_a_pixel("12") * found.maps.fine[..., 0].numel()
            self.num_maps += 1
            return found

        def search(options: RefinementOptions, *given: Any) -> Any:
            found = original_search(options, *given)
            self.operations += operations_of_a_search(options) * len(found.xy)
            return found

        def cosines(descriptors0: Any, descriptors1: Any, cells: Any) -> Any:
            self.operations += 2 * len(descriptors0) * descriptors1.size
            return original_cosines(descriptors0, descriptors1, cells)

        with ExitStack() as stack:
            for module, names in ((pycolmap, OF_COLMAP), (poselib, OF_POSELIB)):
                for name in names:
                    clock = time.thread_time if module is poselib else time.process_time
                    replacement = self._timed(getattr(module, name), clock)
                    stack.enter_context(mock.patch.object(module, name, replacement))
            adjuster = pycolmap.create_default_bundle_adjuster
            timed_adjuster = mock.Mock(side_effect=lambda *a: self._adjuster(adjuster(*a)))
            name = "create_default_bundle_adjuster"
            stack.enter_context(mock.patch.object(pycolmap, name, timed_adjuster))
            stack.enter_context(mock.patch.object(MapReader, "_read", read))
            stack.enter_context(mock.patch.object(matches, "refine_pairs", search))
            stack.enter_context(mock.patch.object(guided, "_cosines", cosines))
            stack.enter_context(mock.patch.object(RunRecord, "timed", timed))
            yield

    def _timed(self, work: Callable[..., Any], clock: Callable[[], float]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            try:
                return work(*args, **kwargs)
            finally:
                self.in_colmap += clock() - start

        return timed

    def _adjuster(self, adjuster: Any) -> Any:
        return mock.Mock(solve=self._timed(adjuster.solve, time.process_time))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path, help="a new folder")
    parser.add_argument("--resize-max", type=int, default=1024)
    parser.add_argument("--intrinsics", type=Path)
    parser.add_argument("--pairs", default="auto", choices=("auto", "exhaustive", "retrieval"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--without-old", action="store_true", help="leave the old way out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True)
    colmap.quiet()
    extracted = ExtractionOptions(resize_max=args.resize_max)
    conf = Reconstruct(
        extraction=extracted, intrinsics=args.intrinsics, pairs=PairsOptions(method=args.pairs)
    )
    profile, names, rate = Profile(), list_images(args.images), peak_rate()
    pixels = decode_all(args.images, names, args.resize_max, profile)
    extract(extracted, args.images, args.output / "warm.h5", names[:1])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with profile.noting():
            run = reconstruct(conf, args.images, args.output / "run")
    except KeyboardInterrupt:
        print_stages(profile, {}, args.threads)
        raise
    if args.threads > 1 and not args.without_old:
        in_the_old_way(conf, run, args.output, profile)
    product = f"a matrix product at {rate / 1e9:.0f} GFLOP a second of the processor"
    pairs = f"{len(names)} images, {len(run.matched.pairs)} pairs, {args.threads} threads"
    print(f"{pairs}, at most {args.resize_max} px, {product}")
    print(f"shallow maps were made {profile.num_maps} times; {run.statistics}")
    print_stages(profile, limits(run, profile, pixels, rate), args.threads)


def in_the_old_way(conf: Reconstruct, run: ModelRun, output: Path, profile: Profile) -> None:
    """Extract and match as it was: all cores share every operation."""
    shared = mock.patch.object(extraction, "threads_an_operation", unlimited)
    in_turn = mock.patch.object(
        extraction, "a_few_ahead", lambda work, batches, _: map(work, batches)
    )
    names = list(run.matched.features.names)
    with shared, in_turn, profile.noted(OLD + "extract"):
        extract(conf.extraction, run.images, output / "old.h5", names)
    rule, pairs = conf.matching_rule, run.matched.pairs
    one = mock.patch.object(match_pairs, "one_thread_an_operation", alone)
    with one, profile.noted(OLD + "match"):
        match_pairs.match(rule, pairs, run.matched.features.path, output / "old-matches.h5")


def decode_all(images: Path, names: list[str], resize_max: int, profile: Profile) -> list[int]:
    """Decode and reduce all images, one by one; their pixels as they are extracted."""
    with profile.noted("decode, alone"):
        found = [read_image(images / name, resize_max)[0] for name in names]
    return [image.shape[1] * image.shape[2] for image in found]


def limits(run: ModelRun, profile: Profile, pixels: list[int], rate: float) -> dict[str, float]:
    """Shortest times of stages, seconds of the processor, at this rate of operations a second."""
    with features_h5.open_h5(run.matched.features.path) as file:
        counts = {name: len(file[name]["keypoints"]) for name in run.matched.features.names}
    operations = {
        "extract": operations_a_pixel("1234") * sum(pixels),
        "match": sum(2 * 512 * counts[a] * counts[b] for a, b in run.matched.pairs),
    }
    found = {}
    for name, stage in profile.stages.items():
        known = operations.get(name.removeprefix(OLD), stage.operations)
        if known or stage.in_colmap:
            found[name] = known / rate + stage.in_colmap
    return found


@cache
def operations_a_pixel(blocks: str) -> float:
    """Operations of these blocks of the trunk, as direct convolutions, for a pixel of the image."""
    weights = D2Net().backbone.state_dict().items()
    return sum(
        2 * weight.numel() / STRIDES[name[4]] ** 2
        for name, weight in weights
        if name.endswith("weight") and name[4] in blocks
    )


def operations_of_a_search(options: RefinementOptions) -> float:
    """Operations of the products of a keypoint's patches, on conv2_2 twice and on conv1_2."""

    def of(patch: int, window: int, depth: int) -> int:
        return 2 * depth * (2 * patch + 1) ** 2 * (2 * (patch + window) + 1) ** 2

    coarse = of(options.coarse_patch, options.coarse_window, 128) + of(options.coarse_patch, 1, 128)
    return coarse + (of(options.fine_patch, options.fine_window, 64) if options.fine_window else 0)


def peak_rate(edge: int = 2048, repeats: int = 5) -> float:
    """Operations of a large matrix product a second of the processor, all cores together."""
    a, b, seconds = torch.rand(edge, edge), torch.rand(edge, edge), []
    for _ in range(repeats):
        start = time.process_time()
        torch.mm(a, b)
        seconds.append(time.process_time() - start)
    return 2 * edge**3 / min(seconds)


def print_stages(profile: Profile, shortest: dict[str, float], threads: int) -> None:
    """Print a line a stage."""
    titles = ("clock, s", "processor, s", "limit, s", "times", "idle", "peak, GB")
    print(f"{'stage':24}" + "".join(f"{title:>14}" for title in titles))
    for name, stage in profile.stages.items():
        limit = shortest.get(name)
        idle = 1 - stage.processor / max(1e-9, stage.clock * threads)
        values = (
            f"{stage.clock:.2f}",
            f"{stage.processor:.2f}",
            "" if limit is None else f"{limit:.2f}",
            "" if limit is None else f"{stage.processor / limit:.2f}",
            f"{max(0.0, idle):.0%}",
            f"{stage.peak / 1e9:.2f}",
        )
        print(f"{name:24}" + "".join(f"{value:>14}" for value in values))


def forget_peak() -> None:
    """Count the peak of the process's memory from now on, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Largest memory that the process held, bytes; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM")), 0)


@contextmanager
def unlimited(_: int) -> Iterator[int]:
    """Leave torch's threads as they are."""
    yield torch.get_num_threads()


@contextmanager
def alone() -> Iterator[int]:
    """Leave torch's threads as they are, with one worker that all of them serve."""
    yield 1


if __name__ == "__main__":
    main()
