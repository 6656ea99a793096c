"""Madrid, Gendarmenmarkt, Tower of London: models and dense clouds, Table 1 (Section 5.2).

    python pipelines/local_feature_benchmark.py --feature d2net-ms sift --dataset SCENE --output OUT

SCENE holds images/ and, as published, database.db. Killed, it goes on from where it was when the
same command is run again.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.arguments import BenchmarkArguments, load_options
from d2_hloc.benchmarks.sfm_benchmark.run import PhotoReconstruction, run_sfm_benchmark
from d2_hloc.files.ray import engine_of

CONFIG = Path(__file__).parents[1] / "configs" / "local_feature_benchmark.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Turn arguments into options, and run."""
    wanted = BenchmarkArguments(__doc__, PhotoReconstruction, CONFIG)
    wanted.dataset("folder of a scene")
    wanted.option("--refinement", "refinement.enabled")
    wanted.matcher()
    wanted.option("--mapper", "reconstruction.mapper")
    parser = wanted.parser
    parser.add_argument("--no-dense", action="store_true", help="leave the dense clouds out")
    parser.add_argument("--export", action="store_true", help="write the benchmark's own files too")
    args = wanted.parse(arguments)
    conf = load_options(PhotoReconstruction, args)
    if args.no_dense:
        conf = replace(conf, dense=None)
    run_sfm_benchmark(conf, args.dataset, args.output, args.export, engine_of(args))


if __name__ == "__main__":
    sys.exit(run_command("local_feature_benchmark", main))
