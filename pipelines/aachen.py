"""Aachen Day-Night: day images triangulated at their poses, night queries placed (Section 5.3).

    python pipelines/aachen.py --feature d2net sift --dataset AACHEN --output OUT

Killed, it goes on from where it was when the same command is run again. The file to upload to
visuallocalization.net is Aachen_eval_[FEATURE].txt.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.aachen.run import Aachen, run_aachen
from d2_hloc.benchmarks.arguments import BenchmarkArguments, load_options
from d2_hloc.files.ray import engine_of

CONFIG = Path(__file__).parents[1] / "configs" / "aachen.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Turn arguments into options, and run."""
    wanted = BenchmarkArguments(__doc__, Aachen, CONFIG)
    wanted.dataset("folder of the data set")
    wanted.option("--refinement", "refinement.enabled")
    wanted.matcher()
    wanted.known_poses("(ground_truth.txt of the data set)")
    wanted.option("--method", "method")
    given = {"action": "store_const", "const": True, "default": argparse.SUPPRESS}
    wanted.parser.add_argument("--fallback", help="place every query, if need be", **given)
    args = wanted.parse(arguments)
    given = args.dataset, args.output, args.ground_truth, engine_of(args)
    run_aachen(load_options(Aachen, args), *given)


if __name__ == "__main__":
    sys.exit(run_command("aachen", main))
