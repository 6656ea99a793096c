"""HPatches: mean matching accuracy of local features, as in Section 5.1 of the D2-Net paper.

    python pipelines/hpatches.py --feature d2net sift --dataset HPATCHES --output OUT

Killed, it goes on from where it was when the same command is run again.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.arguments import BenchmarkArguments, load_options
from d2_hloc.benchmarks.hpatches.results import read_summaries
from d2_hloc.benchmarks.hpatches.run import HPatches, run_hpatches
from d2_hloc.files.ray import engine_of

CONFIG = Path(__file__).parents[1] / "configs" / "hpatches.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Turn arguments into options, and run."""
    wanted = BenchmarkArguments(__doc__, HPatches, CONFIG)
    wanted.dataset("folder of the sequences")
    wanted.option("--refinement", "refinement.enabled")
    wanted.option("--spreading", "spreading.enabled")
    wanted.matcher()
    wanted.option("--top-k", "extraction.top_k")
    wanted.parser.add_argument(
        "--compare", type=Path, nargs="+", default=[], help="cache files, .npy"
    )
    args = wanted.parse(arguments)
    others = [summary for path in args.compare for summary in read_summaries(path)]
    given = args.dataset, args.output, others, engine_of(args)
    run_hpatches(load_options(HPatches, args), *given)


if __name__ == "__main__":
    sys.exit(run_command("hpatches", main))
