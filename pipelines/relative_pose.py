"""Relative poses of image pairs, by features, mutual nearest neighbours and COLMAP's estimator.

    python pipelines/relative_pose.py --pairs PAIRS.txt --images IMAGES --output OUT

PAIRS.txt is of the form of SuperGlue's evaluation: `name0 name1 rot0 rot1 K0 K1 T_0to1` a line.
Killed, it goes on from where it was when the same command is run again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.relative_pose import data as relative_pose
from d2_hloc.benchmarks.relative_pose.report import present
from d2_hloc.benchmarks.relative_pose.scores import RelativePoseOptions, estimate_poses
from d2_hloc.core import config
from d2_hloc.features import registry
from d2_hloc.features.extraction import ExtractionOptions, extract
from d2_hloc.files import features_h5
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.nearest import MatchingOptions

CONFIG = Path(__file__).parents[1] / "configs" / "relative_pose.yaml"


@dataclass(frozen=True, kw_only=True)
class RelativePose:
    """How pairs are extracted, matched and their poses estimated."""

    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    estimation: RelativePoseOptions = field(default_factory=RelativePoseOptions)


def run(conf: RelativePose, pair_list: Path, images: Path, output: Path) -> None:
    """Images -> features -> matches -> poses -> errors."""
    pairs = relative_pose.read(pair_list)
    names = list(dict.fromkeys(name for pair in pairs for name in pair.names))
    inputs = {"pairs": str(pair_list), "images": str(images)}
    record = RunRecord(output, {**inputs, **config.to_dict(conf)})
    with record.timed("extract"):
        features = extract(conf.extraction, images, output / "features.h5", names).path
    with record.timed("match"):
        matches = output / "matches.h5"
        match(conf.matching, [pair.names for pair in pairs], features, matches)
    with record.timed("estimate"):
        scores = estimate_poses(conf.estimation, pairs, features, matches)
    present(
        record,
        scores,
        features_h5.read_failures(features) | features_h5.read_failures(matches),
        output,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Arguments -> options -> run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True, help="SuperGlue's list with poses")
    parser.add_argument("--images", type=Path, required=True, help="folder that names refer to")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG, help="YAML with the options")
    parser.add_argument("--feature", help="d2net, d2net-ms, sift, ...: see configs/hpatches.yaml")
    parser.add_argument("--top-k", type=int, help="keep so many of an image, the best scores (all)")
    parser.add_argument("--download", action="store_true", help="fetch weights that are not here")
    args = parser.parse_args(arguments)
    conf = config.load(RelativePose, args.config)
    given = {"feature": args.feature, "top_k": args.top_k}
    given = {key: value for key, value in given.items() if value is not None}
    conf = replace(conf, extraction=replace(conf.extraction, **given))
    if args.download:
        registry.adapter_of(conf.extraction.feature).download(conf.extraction)
    run(conf, args.pairs, args.images, args.output)


if __name__ == "__main__":
    sys.exit(run_command("relative_pose", main))
