"""Aachen Day-Night: day images triangulated at their poses, night queries placed (Section 5.3).

    python pipelines/aachen.py --feature d2net sift --dataset AACHEN --output OUT

Killed, it goes on from where it was when the same command is run again. The file to upload to
visuallocalization.net is Aachen_eval_[FEATURE].txt.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.aachen import data as aachen
from d2_hloc.benchmarks.aachen.report import compare, present
from d2_hloc.benchmarks.aachen.results import read_truth
from d2_hloc.benchmarks.aachen.run import METHODS, Aachen, place
from d2_hloc.core import config
from d2_hloc.features import registry

CONFIG = Path(__file__).parents[1] / "configs" / "aachen.yaml"


def run(conf: Aachen, dataset: Path, output: Path, truth: Path | None = None) -> None:
    """One feature in OUT, or several, each in a folder of its own, compared in a table."""
    data = aachen.read(conf.files, dataset)
    if truth is None and (dataset / "ground_truth.txt").is_file():
        truth = dataset / "ground_truth.txt"
    known = read_truth(truth, data.queries) if truth else None
    runs = {}
    for feature in conf.features:
        folder = output if len(conf.features) == 1 else output / registry.file_name(feature)
        runs[feature] = place(replace(conf, features=(feature,)), data, folder)
        present(runs[feature], known)
    if len(runs) > 1:
        compare(runs, output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Arguments -> options -> run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG, help="YAML with the options")
    parser.add_argument("--feature", nargs="+", help="one, or several to compare")
    parser.add_argument("--method", choices=tuple(METHODS), help="how queries are placed")
    parser.add_argument("--refinement", choices=("on", "off"), help="sub-pixel keypoints")
    parser.add_argument("--fallback", action="store_true", help="place every query, if need be")
    parser.add_argument("--ground-truth", type=Path, help="(ground_truth.txt of the data set)")
    args = parser.parse_args(arguments)
    conf = config.load(Aachen, args.config)
    conf = replace(conf, refinement=conf.refinement.switched(args.refinement))
    conf = replace(
        conf,
        features=tuple(dict.fromkeys(args.feature or conf.features)),
        method=args.method or conf.method,
        fallback=args.fallback or conf.fallback,
    )
    run(conf, args.dataset, args.output, args.ground_truth)


if __name__ == "__main__":
    sys.exit(run_command("aachen", main))
