"""HPatches: mean matching accuracy of local features, as in Section 5.1 of the D2-Net paper.

    python pipelines/hpatches.py --feature d2net sift --dataset HPATCHES --output OUT

Killed, it goes on from where it was when the same command is run again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.hpatches import data as hpatches
from d2_hloc.benchmarks.hpatches.report import Evaluation, compare, conclude
from d2_hloc.benchmarks.hpatches.results import Summary, read_summaries
from d2_hloc.benchmarks.hpatches.scores import Refine, ScoringOptions, score
from d2_hloc.core import config
from d2_hloc.features import registry
from d2_hloc.features.extraction import ExtractionOptions, extract
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.nearest import MatchingOptions
from d2_hloc.refinement.matches import PairRefiner
from d2_hloc.refinement.patches import RefinementOptions

CONFIG = Path(__file__).parents[1] / "configs" / "hpatches.yaml"
# A pair has no third image to put a keypoint right: windows of 10 pixels find more of them.
PAIRWISE = RefinementOptions(coarse_window=5, ambiguity=0.02)
CACHE_BYTES = 128 << 20  # of descriptors held at once: those of a sequence or two


@dataclass(frozen=True, kw_only=True)
class HPatches:
    """The features to compare, and how all of them are extracted, matched and scored."""

    features: tuple[str, ...] = ("d2net",)
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    refinement: RefinementOptions = field(default_factory=lambda: PAIRWISE)
    scoring: ScoringOptions = field(default_factory=ScoringOptions)


def run(conf: HPatches, dataset: Path, output: Path, others: Sequence[Summary] = ()) -> None:
    """Evaluate one feature in OUT, or several each in a folder of its own, and compare them."""
    data = hpatches.read(dataset)
    if len(conf.features) == 1:
        evaluate(conf, conf.features[0], data, output, others)
        return
    shared = config.to_dict(replace(conf, features=()))  # more may join them later
    record = RunRecord(output, {"dataset": str(data.folder), **shared})
    folders = {feature: output / registry.file_name(feature) for feature in conf.features}
    found = [evaluate(conf, name, data, folder, others) for name, folder in folders.items()]
    compare(found, record, output, others)


def evaluate(
    conf: HPatches,
    feature: str,
    data: hpatches.HPatches,
    output: Path,
    others: Sequence[Summary] = (),
) -> Evaluation:
    """Images -> features -> mutual nearest neighbours -> errors under the known homographies."""
    options = replace(conf.extraction, feature=feature)
    conf = replace(conf, features=(feature,), extraction=options)
    record = RunRecord(output, {"dataset": str(data.folder), **config.to_dict(conf)})
    pairs = [pair.names for pair in data.pairs]
    with record.timed("extract"):
        features = extract(options, data.folder, output / "features.h5", data.image_names).path
    with record.timed("match"):
        matches = output / "matches.h5"
        match(conf.matching, pairs, features, matches, cache_bytes=CACHE_BYTES)
    refine: Refine | None = None
    if conf.refinement.enabled:
        refine = PairRefiner(conf.refinement, data.folder, options.resize_max)
    with record.timed("score"):
        scores = output / "scores.json"
        found = score(conf.scoring, data.pairs, features, matches, scores, refine)
    return conclude(Evaluation(feature, data, found, record, output, refine), others)


def main(arguments: Sequence[str] | None = None) -> None:
    """Arguments -> options -> run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True, help="folder of the sequences")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG, help="YAML with the options")
    parser.add_argument("--feature", nargs="+", help="one, or several to compare; --config has all")
    parser.add_argument("--top-k", type=int, help="keep so many of an image, the best scores (all)")
    parser.add_argument("--refinement", choices=("on", "off"), help="sub-pixel keypoints")
    parser.add_argument("--download", action="store_true", help="fetch weights that are not here")
    parser.add_argument("--compare", type=Path, nargs="+", default=[], help="cache files, .npy")
    args = parser.parse_args(arguments)
    conf = config.load(HPatches, args.config)
    if args.top_k is not None:
        conf = replace(conf, extraction=replace(conf.extraction, top_k=args.top_k))
    conf = replace(conf, refinement=conf.refinement.switched(args.refinement))
    conf = replace(conf, features=tuple(dict.fromkeys(args.feature or conf.features)))
    if args.download:
        for feature in conf.features:
            registry.adapter_of(feature).download(replace(conf.extraction, feature=feature))
    run(conf, args.dataset, args.output, [s for p in args.compare for s in read_summaries(p)])


if __name__ == "__main__":
    sys.exit(run_command("hpatches", main))
