"""Relative poses of image pairs, by features, a matcher and COLMAP's estimator.

    python pipelines/relative_pose.py --pairs PAIRS.txt --images IMAGES --output OUT

PAIRS.txt is of the form of SuperGlue's evaluation: `name0 name1 rot0 rot1 K0 K1 T_0to1` a line.
Killed, it goes on from where it was when the same command is run again.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.arguments import BenchmarkArguments, load_options
from d2_hloc.benchmarks.relative_pose.run import RelativePose, run_relative_pose
from d2_hloc.files.ray import engine_of

CONFIG = Path(__file__).parents[1] / "configs" / "relative_pose.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Turn arguments into options, and run."""
    wanted = BenchmarkArguments(__doc__, RelativePose, CONFIG)
    wanted.option("--refinement", "refinement.enabled")
    wanted.option("--spreading", "spreading.enabled")
    wanted.matcher()
    wanted.option("--top-k", "extraction.top_k")
    parser = wanted.parser
    parser.add_argument("--pairs", type=Path, required=True, help="SuperGlue's list with poses")
    parser.add_argument("--images", type=Path, required=True, help="folder that names refer to")
    args = wanted.parse(arguments)
    conf = load_options(RelativePose, args)
    run_relative_pose(conf, args.pairs, args.images, args.output, engine_of(args))


if __name__ == "__main__":
    sys.exit(run_command("relative_pose", main))
