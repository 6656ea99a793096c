"""Aachen Day-Night: day images triangulated at their poses, night queries placed (Section 5.3).

    python pipelines/aachen.py --feature d2net sift --dataset AACHEN --output OUT

Killed, it goes on from where it was when the same command is run again. The file to upload to
visuallocalization.net is Aachen_eval_[FEATURE].txt.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.aachen.run import METHODS, Aachen, run_aachen
from d2_hloc.benchmarks.arguments import (
    add_dataset,
    add_known_poses,
    add_refinement,
    benchmark_parser,
    load_options,
)

CONFIG = Path(__file__).parents[1] / "configs" / "aachen.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Turn arguments into options, and run."""
    parser = benchmark_parser(__doc__, CONFIG)
    add_dataset(parser, "folder of the data set")
    add_refinement(parser)
    add_known_poses(parser, "(ground_truth.txt of the data set)")
    parser.add_argument("--method", choices=tuple(METHODS), help="how queries are placed")
    parser.add_argument("--fallback", action="store_true", help="place every query, if need be")
    args = parser.parse_args(arguments)
    conf = load_options(Aachen, args)
    conf = replace(conf, method=args.method or conf.method, fallback=args.fallback or conf.fallback)
    run_aachen(conf, args.dataset, args.output, args.ground_truth)


if __name__ == "__main__":
    sys.exit(run_command("aachen", main))
