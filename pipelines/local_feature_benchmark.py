"""Madrid, Gendarmenmarkt, Tower of London: models and dense clouds, Table 1 (Section 5.2).

    python pipelines/local_feature_benchmark.py --feature d2net-ms sift --dataset SCENE --output OUT

SCENE holds images/ and, as published, database.db. Killed, it goes on from where it was when the
same command is run again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.sfm_benchmark import data as lfe
from d2_hloc.benchmarks.sfm_benchmark.report import compare, present
from d2_hloc.benchmarks.sfm_benchmark.run import Benchmark, evaluate
from d2_hloc.core import config
from d2_hloc.features import registry
from d2_hloc.files import features_h5
from d2_hloc.matching.pairs import read_pairs

CONFIG = Path(__file__).parents[1] / "configs" / "local_feature_benchmark.yaml"


def run(conf: Benchmark, dataset: Path, output: Path, export: bool = False) -> None:
    """One feature in OUT, or several, each in a folder of its own, compared in a table."""
    scene, runs = lfe.read(dataset), {}
    for feature in conf.features:
        folder = output if len(conf.features) == 1 else output / registry.file_name(feature)
        runs[feature] = evaluate(conf, feature, scene, folder)
        present(feature, runs[feature])
        if export:
            names = features_h5.image_names(folder / "features.h5", scene.names)
            lfe.write_features(folder / "benchmark", folder / "features.h5", names)
            pairs = read_pairs(folder / "pairs.txt")
            lfe.write_matches(folder / "benchmark", folder / "matches.h5", pairs)
    if len(runs) > 1:
        compare(scene.name, runs, output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Arguments -> options -> run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True, help="folder of a scene")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG, help="YAML with the options")
    parser.add_argument("--feature", nargs="+", help="one, or several to compare")
    parser.add_argument("--mapper", choices=("incremental", "global", "hierarchical"))
    parser.add_argument("--refinement", choices=("on", "off"), help="sub-pixel keypoints")
    parser.add_argument("--no-dense", action="store_true", help="leave the dense clouds out")
    parser.add_argument("--export", action="store_true", help="write the benchmark's own files too")
    args = parser.parse_args(arguments)
    conf = config.load(Benchmark, args.config)
    conf = replace(conf, refinement=conf.refinement.switched(args.refinement))
    if args.mapper is not None:
        conf = replace(conf, reconstruction=replace(conf.reconstruction, mapper=args.mapper))
    conf = replace(
        conf,
        features=tuple(dict.fromkeys(args.feature or conf.features)),
        dense=None if args.no_dense else conf.dense,
    )
    run(conf, args.dataset, args.output, args.export)


if __name__ == "__main__":
    sys.exit(run_command("local_feature_benchmark", main))
