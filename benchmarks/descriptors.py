"""Measure what smaller descriptors cost: bytes against matching accuracy, models and poses.

The same keypoints with their descriptors in fewer numbers and bytes are matched, mapped and
localized anew by the pipelines' own steps, keypoints unrefined unless --refinement is given. Scenes
are mapped with several seeds, since a model's errors change with the random numbers alone.

    python benchmarks/descriptors.py DATA OUT [--sets hpatches fountain sacrecoeur aachen]

DATA holds hpatches-mini, lfe-mini/{Fountain,SacreCoeur} and aachen-mini. Each result is kept in
OUT/descriptors.json when it is there, and not made again; the table is OUT/descriptors.md.
Features are extracted in float32 unless they are in OUT/<set>/features.h5 already, in --precision.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.aachen.data import read_aachen
from d2_hloc.benchmarks.aachen.results import read_truth
from d2_hloc.benchmarks.aachen.run import Aachen, AachenBenchmark
from d2_hloc.benchmarks.hpatches.data import read_hpatches
from d2_hloc.benchmarks.hpatches.results import OVERALL, means_by_part
from d2_hloc.benchmarks.hpatches.scores import ScoringOptions, score_homographies
from d2_hloc.features.compression import compress
from d2_hloc.features.extraction import extract
from d2_hloc.features.options import CompressionOptions, ExtractionOptions
from d2_hloc.files import features_h5
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.reports.model import score_model
from d2_hloc.sfm.cameras.intrinsics import Intrinsics
from d2_hloc.sfm.mapping import (
    map_images,
)
from d2_hloc.sfm.options import Reconstruct
from d2_hloc.sfm.outcome.statistics import model_statistics
from d2_hloc.sfm.poses_file import read_calibrations
from d2_hloc.sfm.reconstruct import ModelRun, reconstruct

Result = dict[str, float]
SOURCE = "512 float32"
COLUMNS = {
    "hpatches": ["matches", "1 px", "3 px", "5 px", "10 px"],
    "fountain": ["inliers", "points", "images", "centres", "rotation"],
    "sacrecoeur": ["inliers", "points", "images", "centres", "rotation"],
    "aachen": ["inliers", "placed", "metres", "degrees"],
}


def variants(projection: Path | None) -> dict[str, CompressionOptions | None]:
    """Numbers of a descriptor, and how each is stored."""
    found: dict[str, CompressionOptions | None] = {SOURCE: None}
    for dimensions in (None, 256, 128, 64):
        for dtype in ("float16", "int8"):
            found[f"{dimensions or 512} {dtype}"] = CompressionOptions(
                dimensions=dimensions, dtype=dtype, projection=projection if dimensions else None
            )
    return found


class Bench:
    """The data sets, and the features of each as they were extracted."""

    def __init__(
        self, data: Path, output: Path, precision: Any, refinement: bool, seeds: int
    ) -> None:
        self.data, self.output = data, output
        self.precision, self.seeds = precision, seeds
        self.refinement = RefinementOptions(enabled=refinement)

    def features(
        self, name: str, images: Path, options: ExtractionOptions, names: list[str] | None = None
    ) -> Path:
        """Features file of a set, in a folder of the variant's own."""
        folder = self.output / name
        source = Outputs(folder).features
        folder.mkdir(parents=True, exist_ok=True)
        if not source.is_file() or source.with_name(f"{source.name}.parts").exists():
            extract(dataclasses.replace(options, compression=None), images, source, names)
        if options.compression is None:
            return source
        small = options.compression
        path = Outputs(folder / f"{small.dimensions or 512}-{small.dtype}").features
        path.parent.mkdir(exist_ok=True)
        return compress(small, source, path).path

    def folder(self, features: Path) -> Path:
        """Folder in which a variant's run goes on from its features."""
        if features.parent.parent != self.output:
            return features.parent
        folder = features.parent / "512-float32"
        folder.mkdir(exist_ok=True)
        if not Outputs(folder).features.exists():
            Outputs(folder).features.hardlink_to(features)
        return folder


def run_hpatches(bench: Bench, small: CompressionOptions | None) -> Result:
    """Mean matching accuracy of all pairs."""
    data = read_hpatches(bench.data / "hpatches-mini")
    options = ExtractionOptions(descriptor_dtype=bench.precision, compression=small)
    features = bench.features("hpatches", data.folder, options, data.image_names)
    folder = bench.folder(features)
    pairs = [p.names for p in data.pairs]
    matches = match(MatchingOptions(), pairs, features, Outputs(folder).matches)
    scores = score_homographies(
        ScoringOptions(), data.pairs, features, matches, Outputs(folder).pair_scores
    )
    found = next(s for s in means_by_part("d2net", scores) if s.part == OVERALL)
    shares = {f"{t} px": found.accuracy[t - 1] or 0.0 for t in (1, 3, 5, 10)}
    return bytes_of(features) | {"matches": found.num_matches or 0.0} | shares


def run_scene(bench: Bench, small: CompressionOptions | None, name: str) -> Result:
    """A model with known intrinsics, and its cameras' errors."""
    scene = bench.data / "lfe-mini" / {"fountain": "Fountain", "sacrecoeur": "SacreCoeur"}[name]
    options = ExtractionOptions(
        descriptor_dtype=bench.precision,
        compression=small,
        resize_max=1024 if name == "fountain" else 1600,
    )
    features = bench.features(name, scene / "images", options)
    truth = scene / "ground_truth.txt"
    if not truth.is_file():
        truth = scene / "ground_truth"
    conf = Reconstruct(
        extraction=options,
        refinement=bench.refinement,
        intrinsics=intrinsics(bench, features, truth),
    )
    run = reconstruct(conf, scene / "images", bench.folder(features))
    score_model(run, truth)
    found = from_record(run.record)
    for seed in range(1, bench.seeds):
        again = map_again(run, conf, seed)
        score_model(again, truth)
        found |= {f"{key} {seed}": value for key, value in from_record(again.record).items()}
    for key in ("points", "images", "centres", "rotation"):
        found[key] = median([found[key], *(found[f"{key} {n}"] for n in range(1, bench.seeds))])
    return bytes_of(features) | found


def map_again(run: ModelRun, conf: Reconstruct, seed: int) -> ModelRun:
    """Map the same verified matches with other random numbers."""
    options = dataclasses.replace(conf.reconstruction, random_seed=100 * seed)
    known = set(Intrinsics.read(conf.intrinsics).cameras)
    database, sparse = run.outputs.database, run.outputs.folder / "again"
    model = map_images(options, database, run.images, sparse, known)
    found = model_statistics(model)
    run.record.scores = dataclasses.asdict(found)
    return dataclasses.replace(run, model=model, statistics=found)


def intrinsics(bench: Bench, features: Path, truth: Path) -> Path:
    """A file of cameras: the ground truth itself, or written from the challenge's calibrations."""
    if truth.is_file():
        return truth
    path = bench.output / "intrinsics.txt"
    lines = []
    for name, (k, _) in read_calibrations(truth).items():
        width, height = features_h5.read_image_size(features, name)
        lines.append(f"{name} PINHOLE {width} {height} {k[0, 0]} {k[1, 1]} {k[0, 2]} {k[1, 2]}\n")
    write_atomically(path, "".join(lines).encode())
    return path


def run_aachen(bench: Bench, small: CompressionOptions | None) -> Result:
    """Queries placed in a model of known poses."""
    folder = bench.data / "aachen-mini"
    options = ExtractionOptions(descriptor_dtype=bench.precision, compression=small)
    conf = Aachen(extraction=options, refinement=bench.refinement)
    data = read_aachen(conf.files, folder)
    features = bench.features("aachen", data.images, options)
    truth = read_truth(folder / "ground_truth.txt", data.queries)
    benchmark = AachenBenchmark(conf=conf, data=data, truth=truth)
    found = benchmark.evaluate("d2net", Outputs(bench.folder(features)))
    return bytes_of(features) | from_record(found.record)


def from_record(record: RunRecord) -> Result:
    """The numbers of the table."""
    errors = record.scores.get("ground_truth", {})
    return {
        "inliers": record.counts["inlier_matches"],
        "points": record.scores.get("points", 0),
        "images": record.scores.get("registered_images", 0),
        "centres": errors.get("mean_position_error_m", float("nan")),
        "rotation": errors.get("mean_rotation_error_deg", float("nan")),
        "placed": errors.get("poses", 0),
        "metres": errors.get("median_position_error_m", float("nan")),
        "degrees": errors.get("median_rotation_error_deg", float("nan")),
    }


def bytes_of(features: Path) -> Result:
    """Mean of an image's descriptors, and of all that is stored of it."""
    names = features_h5.extracted_names(features)
    with features_h5.open_h5(features) as file:
        every = sum(v.nbytes for n in names for v in file[n].values())
        descriptors = sum(file[n]["descriptors"].nbytes for n in names)
    return {"descriptor bytes": descriptors / len(names), "bytes": every / len(names)}


SETS: dict[str, Callable[[Bench, CompressionOptions | None], Result]] = {
    "hpatches": run_hpatches,
    "fountain": lambda bench, small: run_scene(bench, small, "fountain"),
    "sacrecoeur": lambda bench, small: run_scene(bench, small, "sacrecoeur"),
    "aachen": run_aachen,
}


def table(results: dict[str, dict[str, Result]]) -> str:
    """Markdown, a table for each data set."""
    text = []
    for name, found in results.items():
        columns = ["descriptor bytes", "bytes", *COLUMNS[name]]
        text += [f"{name}|{'|'.join(columns)}", "---" + "|---:" * len(columns)]
        for variant, result in found.items():
            text.append("|".join([variant, *(f"{result[c]:.5g}" for c in columns)]))
        text.append("")
    return "\n".join(f"|{line}|" if line else line for line in text)


def run(args: argparse.Namespace) -> None:
    """Make the results that are not there yet."""
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "descriptors.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    bench = Bench(args.data, args.output, args.precision, args.refinement, args.seeds)
    for name in args.sets:
        found = results.setdefault(name, {})
        for variant, small in variants(args.projection).items():
            is_wanted = variant in (args.variants or [variant])
            if variant == SOURCE and args.precision == "float16":
                is_wanted = False
            if variant not in found and is_wanted:
                found[variant] = SETS[name](bench, small)
                write_atomically(path, json.dumps(results, indent=1).encode())
                print(name, variant, found[variant], flush=True)
    write_atomically(args.output / "descriptors.md", (table(results) + "\n").encode())
    print(table(results))


def main() -> None:
    """Arguments -> run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=list(SETS))
    parser.add_argument("--variants", nargs="+", help="such as '128 int8' (all)")
    parser.add_argument("--precision", choices=("float32", "float16"), default="float32")
    parser.add_argument("--projection", type=Path, help="(the bundled one)")
    parser.add_argument("--seeds", type=int, default=3, help="mappings, of which the median counts")
    parser.add_argument("--refinement", action="store_true", help="sub-pixel keypoints")
    run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(run_command("descriptors", main))
