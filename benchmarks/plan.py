"""Plan what collections of other sizes would take, from the measured rates of a finished run.

    python benchmarks/plan.py RUN [--images 1344 10000 100000 10000000] [--pairs-per-image 20]
        [--gpu-tflops 100] [--plot plan.svg]

RUN is the output of 'd2-hloc reconstruct' or of pipelines/local_feature_benchmark.py, made in one
go on a quiet machine. Stages whose work is a number of images or pairs are scaled by it; mapping,
which grows faster, is left out. Exhaustive pairs are taken as far as they are fewer than the
retrieved ones. The GPU's column is arithmetic, not a measurement: multiply-adds over a sustained
rate in half precision.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from d2_hloc.app.command import run_command
from d2_hloc.core.images import fit
from d2_hloc.files import features_h5
from d2_hloc.files.outputs import Outputs
from d2_hloc.network.backbone import DIMENSION, LAYERS

COUNTED_BY = {
    "extract": "images",
    "match": "pairs",
    "verify": "pairs",
    "refine": "pairs",
    "dense": "images",
}
HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds an image or pair by stage, bytes an image, multiply-adds of trunk and matching."""

    seconds: dict[str, float]
    bytes_an_image: float
    multiply_adds_an_image: float
    multiply_adds_a_pair: float


def measured(run: Path) -> Rates:
    """The rates of a run, by its record and files.

    Raises:
        ValueError: if the folder is not the output of such a run.
    """
    try:
        record = json.loads(Outputs(run).run_record.read_text())
        counts, timings = record["counts"], record["timings"]
        if not counts["images"] or not counts["pairs"]:
            raise ValueError("it has no images or pairs")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{run}: holds no record of a reconstruction; give the output of one."
        ) from error
    features = Outputs(run).features
    names = features_h5.extracted_names(features)
    resize_max = (features_h5.read_configuration(features) or {}).get("resize_max")
    with features_h5.open_h5(features) as file:
        keypoints = [len(file[n]["keypoints"]) for n in names]
        sizes = [fit(features_h5.image_size_of(file, n), resize_max) for n in names]
    mean = sum(keypoints) / len(keypoints)
    return Rates(
        seconds={s: timings[s] / counts[c] for s, c in COUNTED_BY.items() if s in timings},
        bytes_an_image=features.stat().st_size / len(names),
        multiply_adds_an_image=sum(map(trunk, sizes)) / len(sizes),
        multiply_adds_a_pair=mean**2 * DIMENSION,
    )


def trunk(size: tuple[int, int]) -> float:
    """Multiply-adds of D2-Net's convolutions on an image (w, h); conv4 is as dense as conv3."""
    return sum(
        9 * channels_in * channels_out * size[0] * size[1] / 4 ** (min(int(name[4]), 3) - 1)
        for name, (channels_in, channels_out, _) in LAYERS.items()
    )


def num_pairs(images: int, pairs_per_image: int) -> int:
    """Number of pairs: exhaustive, as far as those are fewer than the retrieved ones."""
    return min(images * (images - 1) // 2, images * pairs_per_image)


def plan(rates: Rates, images: int, pairs_per_image: int, gpu_tflops: float) -> dict[str, float]:
    """Hours by stage, of this machine and of a GPU, and terabytes."""
    pairs = num_pairs(images, pairs_per_image)
    counts = {"images": images, "pairs": pairs}
    row = {s: r * counts[COUNTED_BY[s]] / HOUR for s, r in rates.seconds.items()}
    products = images * rates.multiply_adds_an_image + pairs * rates.multiply_adds_a_pair
    row["together"] = sum(row.values())
    row["GPU: extract, match"] = 2 * products / (gpu_tflops * 1e12) / HOUR
    row["features, TB"] = images * rates.bytes_an_image / 1e12
    return row


def table(rows: dict[int, dict[str, float]], pairs_per_image: int) -> str:
    """Markdown."""
    names = list(next(iter(rows.values())))
    lines = [
        "|images|pairs|" + "|".join(f"{n}, h" if "TB" not in n else n for n in names) + "|",
        "|---:|---:|" + "---:|" * len(names),
    ]
    for images, row in rows.items():
        values = "|".join(f"{row[n]:.3g}" for n in names)
        lines.append(f"|{images:,}|{num_pairs(images, pairs_per_image):,}|{values}|")
    return "\n".join(lines)


def plot(rows: dict[int, dict[str, float]]) -> Figure:
    """Hours over images, stage by stage."""
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for name in next(iter(rows.values())):
        if "TB" not in name:
            is_sum = name == "together"
            style = {"color": "black", "linewidth": 2} if is_sum else {"linewidth": 1.2}
            hours = [row[name] for row in rows.values()]
            axes.loglog(list(rows), hours, "--" if "GPU" in name else "-", label=name, **style)
    for hours, text in ((24, "a day"), (24 * 365, "a year")):
        axes.axhline(hours, color="#b0b0b0", linewidth=0.7)
        axes.annotate(text, (min(rows), hours), fontsize=8, color="#707070", va="bottom")
    axes.set(xlabel="images", ylabel="hours")
    axes.grid(color="#e0e0e0", linewidth=0.5)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def main() -> None:
    """Print the table; draw it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[1344, 10**4, 10**5, 10**7])
    parser.add_argument("--pairs-per-image", type=int, default=20)
    parser.add_argument("--gpu-tflops", type=float, default=100.0)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    if min(*args.images, args.pairs_per_image, args.gpu_tflops) <= 0:
        raise ValueError("numbers of images and pairs, and --gpu-tflops, must be positive.")
    rates = measured(args.run)
    for stage, seconds in rates.seconds.items():
        print(f"{stage}: {seconds:.3g} s of each of the {COUNTED_BY[stage]}")
    rows = {n: plan(rates, n, args.pairs_per_image, args.gpu_tflops) for n in sorted(args.images)}
    print(f"\n{table(rows, args.pairs_per_image)}")
    if args.plot:
        plot(rows).savefig(args.plot)


if __name__ == "__main__":
    sys.exit(run_command("plan", main))
