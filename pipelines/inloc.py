"""InLoc: indoor localization by local features, as in Section 5.3 of the D2-Net paper.

    python pipelines/inloc.py --feature d2net-ms --method sparse sparse+pv --dataset INLOC \\
        --retrieval pairs-query-netvlad100.txt --output OUT
    python pipelines/inloc.py --method dense dense+pv --dataset INLOC --retrieval ... --output OUT
    python pipelines/inloc.py --combine A/ImgList.mat B/ImgList.mat --output OUT

`dense` is InLoc's Dense PE, of densesfm where no feature is given, and `dense+pv` is InLoc.

Killed, it goes on from where it was when the same command is run again.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.arguments import BenchmarkArguments, load_options
from d2_hloc.benchmarks.inloc.dense_verification import METHODS
from d2_hloc.benchmarks.inloc.report import report_combined
from d2_hloc.benchmarks.inloc.run import InLoc, run_inloc
from d2_hloc.files.ray import engine_of

CONFIG = Path(__file__).parents[1] / "configs" / "inloc.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Turn arguments into options, and run."""
    wanted = BenchmarkArguments(__doc__, InLoc, CONFIG)
    wanted.dataset("folder of database/ and query/", required=False)
    wanted.option("--refinement", "refinement.enabled")
    wanted.matcher()
    wanted.known_poses("name qw qx qy qz tx ty tz a line")
    wanted.parser.add_argument("--method", nargs="+", choices=METHODS)
    wanted.option("--retrieval", "retrieval")
    wanted.option("--intrinsics", "cameras.intrinsics")
    wanted.option("--workers", "workers")
    text = "two ImgLists, by Dense PV's score"
    wanted.parser.add_argument("--combine", type=Path, nargs=2, help=text)
    args = wanted.parse(arguments)
    if args.combine:
        report_combined(args.combine, args.output, args.ground_truth)
        return
    if args.dataset is None:
        wanted.parser.error("--dataset is missing.")
    if args.feature is None and all(m.startswith("dense") for m in args.method or ("sparse",)):
        args.feature = ["densesfm"]
    conf = load_options(InLoc, args)
    if args.method:
        conf = replace(conf, methods=tuple(args.method))
    run_inloc(conf, args.dataset, args.output, args.ground_truth, engine_of(args))


if __name__ == "__main__":
    sys.exit(run_command("inloc", main))
