"""Seconds a pair of the learned matcher, against kornia's module of the same size, in one run.

    python benchmarks/lightglue.py [--points 2000] [--threads 2] [--repeats 5]

The features are drawn at random: what a pair costs does not depend on what they are. All take
turns, and the fastest of the repeats counts: of the clock, and of the processor over all threads,
which says more where other work runs beside.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import kornia.feature as KF
import torch
import torch.nn.functional as F

from d2_hloc.matching.lightglue import GlueShape, LightGlue

SIZE = (1000, 1000)


def drawn(count: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keypoints and descriptors."""
    generator = torch.Generator().manual_seed(seed)
    keypoints = torch.rand(count, 2, generator=generator) * torch.tensor(SIZE)
    return keypoints, F.normalize(torch.randn(count, width, generator=generator))


def ours(count: int, precision: str) -> Callable[[], object]:
    """The bundled matcher."""
    glue = LightGlue(precision=precision)
    points = [glue.prepare(*drawn(count, GlueShape().input_width, k), SIZE) for k in (0, 1)]
    return lambda: glue(*points)


def kornias(count: int) -> Callable[[], object]:
    """kornia's module, without weights and without early exits, which depend on them."""
    shape = GlueShape()
    net = KF.LightGlue(
        features=None,  # pyright: ignore[reportArgumentType] - kornia takes None
        input_dim=shape.input_width,
        descriptor_dim=shape.width,
        n_layers=shape.layers,
        num_heads=shape.heads,
        depth_confidence=-1,
        width_confidence=-1,
    ).eval()
    data = {}
    for k in (0, 1):
        keypoints, descriptors = drawn(count, shape.input_width, k)
        data[f"image{k}"] = {
            "keypoints": keypoints[None],
            "descriptors": descriptors[None],
            "image_size": torch.tensor([SIZE]).float(),
        }
    return lambda: net(data)


@torch.inference_mode()
def main() -> None:
    """Take turns, and print the fastest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ways = {
        "kornia's module": kornias(args.points),
        "ours, float32": ours(args.points, "float32"),
        "ours, bfloat16": ours(args.points, "bfloat16"),
    }
    best = dict.fromkeys(ways, (float("inf"), float("inf")))
    for _ in range(args.repeats + 1):  # the first warms up
        for name, work in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            work()
            seconds = time.perf_counter() - clock, time.process_time() - processor
            best[name] = min(best[name][0], seconds[0]), min(best[name][1], seconds[1])
    whole = best["kornia's module"]
    print(f"{args.points} points, {args.threads} threads, load {os.getloadavg()[0]:.1f}")
    for name, (clock, processor) in best.items():
        print(
            f"{name:16s} {clock:.2f} s, {processor:.2f} s of processors; "
            f"kornia's takes {whole[0] / clock:.1f} and {whole[1] / processor:.1f} times as long"
        )


if __name__ == "__main__":
    main()
