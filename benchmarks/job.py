"""Profile the main job: reconstruct, stage by stage, against limits measured in the same run.

    python benchmarks/job.py IMAGES OUT [--resize-max 1024] [--intrinsics FILE] [--threads 2]

The limit of extraction is the trunk's multiply-adds, counted as direct convolutions, at the rate
of a large matrix product; decoding, in a thread beside it, has a line of its own. That of matching
is the products of all descriptors at that rate. COLMAP's stages have none but themselves. Beside it
the old way: the cores share every operation of one image, instead of an image each. Times are of
the clock and of the processor; limits are of the processor, so that a busy machine can tell too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from d2_hloc.core.images import read_image
from d2_hloc.core.listing import list_images
from d2_hloc.features import extraction
from d2_hloc.features.extraction import extract
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files import colmap, features_h5
from d2_hloc.files.run_record import RunRecord
from d2_hloc.network.d2net import D2Net
from d2_hloc.sfm.options import Reconstruct
from d2_hloc.sfm.reconstruct import ModelRun, reconstruct

STRIDES = {"1": 1, "2": 2, "3": 4, "4": 4}  # pixels a cell of each block; the last is dilated
Times = dict[str, tuple[float, float]]  # seconds of the clock and of the processor, by stage


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path, help="a new folder")
    parser.add_argument("--resize-max", type=int, default=1024)
    parser.add_argument("--intrinsics", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True)
    options = ExtractionOptions(resize_max=args.resize_max)
    times: Times = {}
    names = list_images(args.images)
    colmap.quiet()
    sizes = decode_all(args.images, names, args.resize_max, times)
    extract(options, args.images, args.output / "warm.h5", names[:1])
    with (
        noted(times, "extract, cores share an image"),
        mock.patch.object(extraction, "a_few_ahead", lambda work, batches, _: map(work, batches)),
        mock.patch.object(extraction, "one_thread_an_operation", unlimited),
    ):
        extract(options, args.images, args.output / "shared.h5")
    conf = Reconstruct(extraction=options, intrinsics=args.intrinsics)
    with stages_noted(times):
        run = reconstruct(conf, args.images, args.output / "run")
    rate = peak_rate()
    product = f"a matrix product at {rate / 1e9:.0f} GFLOP a second of the processor"
    print(f"{len(names)} images, {args.threads} threads, {product}")
    print_times(times, limits(run, sizes, rate))


def decode_all(images: Path, names: list[str], resize_max: int, times: Times) -> list[int]:
    """Decode and reduce all images, one by one; their pixels as they are extracted."""
    with noted(times, "decode"):
        found = [read_image(images / name, resize_max)[0] for name in names]
    return [image.shape[1] * image.shape[2] for image in found]


def limits(run: ModelRun, pixels: list[int], rate: float) -> dict[str, float]:
    """Shortest times of stages, seconds of the processor, at this rate of operations a second."""
    convolutions = D2Net().backbone.state_dict().items()
    a_pixel = sum(
        2 * weight.numel() / STRIDES[name[4]] ** 2
        for name, weight in convolutions
        if name.endswith("weight")
    )
    with features_h5.open_h5(run.matched.features.path) as file:
        counts = {name: len(file[name]["keypoints"]) for name in run.matched.features.names}
    products = sum(2 * 512 * counts[a] * counts[b] for a, b in run.matched.pairs)
    extracting = a_pixel * sum(pixels) / rate
    return {
        "extract, cores share an image": extracting,
        "extract": extracting,
        "match": products / rate,
    }


def peak_rate(edge: int = 2048, repeats: int = 5) -> float:
    """Operations of a large matrix product a second of the processor, all cores together."""
    a, b, seconds = torch.rand(edge, edge), torch.rand(edge, edge), []
    for _ in range(repeats):
        start = time.process_time()
        torch.mm(a, b)
        seconds.append(time.process_time() - start)
    return 2 * edge**3 / min(seconds)


def print_times(times: Times, shortest: dict[str, float]) -> None:
    """Print a line a stage."""
    print(f"{'stage':32}{'clock, s':>10}{'processor, s':>14}{'limit, s':>10}{'times':>8}")
    for stage, (clock, processor) in times.items():
        line = f"{stage:32}{clock:10.2f}{processor:14.2f}"
        if stage in shortest:
            line += f"{shortest[stage]:10.2f}{processor / shortest[stage]:8.2f}"
        print(line)


@contextmanager
def noted(times: Times, stage: str) -> Iterator[None]:
    """Add the times of a stage."""
    clock, processor = time.perf_counter(), time.process_time()
    yield
    before = times.get(stage, (0.0, 0.0))
    spent = time.perf_counter() - clock, time.process_time() - processor
    times[stage] = before[0] + spent[0], before[1] + spent[1]


@contextmanager
def stages_noted(times: Times) -> Iterator[None]:
    """Note the stages of the runs that are made meanwhile."""
    original = RunRecord.timed

    @contextmanager
    def timed(record: RunRecord, stage: str) -> Iterator[None]:
        with original(record, stage), noted(times, stage):
            yield

    with mock.patch.object(RunRecord, "timed", timed):
        yield


@contextmanager
def unlimited() -> Iterator[int]:
    """Leave torch's threads as they are."""
    yield torch.get_num_threads()


if __name__ == "__main__":
    main()
