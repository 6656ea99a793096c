"""HPatches' options, and the steps of a run: images, features, matches, errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from d2_hloc.benchmarks.arguments import split_matcher
from d2_hloc.benchmarks.comparison import Benchmark
from d2_hloc.benchmarks.hpatches.data import HPatchesData, read_hpatches
from d2_hloc.benchmarks.hpatches.report import (
    HPatchesEvaluation,
    accuracy_rows,
    curves,
    hpatches_report,
)
from d2_hloc.benchmarks.hpatches.results import PAPER, Summary, sequence_rows, to_cache
from d2_hloc.benchmarks.hpatches.scores import ScoringOptions, score_homographies
from d2_hloc.benchmarks.hpatches.shared_results import write_accuracy_cache
from d2_hloc.benchmarks.pair_scores import PAIRWISE, refinement_of_pairs
from d2_hloc.benchmarks.tables import write_csv
from d2_hloc.core import config
from d2_hloc.features import registry
from d2_hloc.features.names import reach_of
from d2_hloc.features.on_cluster import extract_on
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.ray import Engine
from d2_hloc.files.shards import end_of_shards
from d2_hloc.matching.on_cluster import match_on
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.refinement.options import RefinementOptions, SpreadingOptions
from d2_hloc.reports.curves import write_figure
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table

CACHE_BYTES = 128 << 20  # of descriptors held at once: those of a sequence or two


@dataclass(frozen=True, kw_only=True)
class HPatches:
    """Features to compare, and how all of them are extracted, matched and scored.

    Attributes:
        features: features to compare, by name: d2net, sift, ... or NAME+lightglue; see
            configs/hpatches.yaml.
        extraction: features of the images.
        matching: how two images are matched.
        refinement: sub-pixel places of the second keypoint of each match.
        spreading: more matches around refined ones, and only those that agree.
        scoring: largest errors.
    """

    features: tuple[str, ...] = ("d2net",)
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    refinement: RefinementOptions = field(default_factory=lambda: PAIRWISE)
    spreading: SpreadingOptions = field(default_factory=SpreadingOptions)
    scoring: ScoringOptions = field(default_factory=ScoringOptions)


@dataclass(frozen=True, kw_only=True)
class HPatchesBenchmark(Benchmark[HPatchesEvaluation]):
    """HPatches' data and options, and results that other papers share."""

    conf: HPatches
    data: HPatchesData
    others: Sequence[Summary] = ()
    engine: Engine = None

    @property
    def shared_configuration(self) -> dict[str, Any]:
        """Folder and options."""
        return self._configuration(replace(self.conf, features=()))

    def _configuration(self, conf: HPatches) -> dict[str, Any]:
        return {"dataset": str(self.data.folder), **config.to_dict(conf)}

    def evaluate(self, feature: str, outputs: Outputs) -> HPatchesEvaluation:
        """Extract, match, and measure errors by known homographies."""
        name, matching = split_matcher(feature, self.conf.matching)
        options = replace(self.conf.extraction, feature=name)
        conf, data = replace(self.conf, features=(feature,), extraction=options), self.data
        conf = replace(conf, matching=matching)
        cache = outputs.accuracies(registry.file_name(feature))
        record = self.record_of(outputs, self._configuration(conf), [cache])
        with record.timed("extract"):
            given = options, data.folder, outputs.features, data.image_names
            features = extract_on(self.engine, *given)
        with record.timed("match"):
            pairs = [pair.names for pair in data.pairs]
            rest = features.path, outputs.matches
            matches = match_on(self.engine, conf.matching, pairs, *rest, cache_bytes=CACHE_BYTES)
        end_of_shards(self.engine, outputs.folder)
        refine = refinement_of_pairs(
            conf.refinement.reaching(reach_of(name)),
            conf.spreading,
            data.folder,
            features,
        )
        with record.timed("score"):
            scores = score_homographies(
                conf.scoring, data.pairs, features.path, matches, outputs.pair_scores, refine
            )
        write_accuracy_cache(cache, to_cache(scores))
        return HPatchesEvaluation(
            feature=feature,
            record=record,
            data=data,
            features=features,
            matches=matches,
            pair_scores=scores,
            refine=refine,
        )

    def counts(self, evaluation: HPatchesEvaluation) -> dict[str, Any]:
        """Sequences, pairs and images, and what was left out."""
        return {
            "sequences": len({s.sequence for s in evaluation.pair_scores}),
            "pairs": len(evaluation.pair_scores),
            "images": len(self.data.image_names),
            "left_out_sequences": list(self.data.left_out),
            "skipped": evaluation.skipped,
        }

    def scores(self, evaluation: HPatchesEvaluation) -> dict[str, Mapping[str, Any]]:
        """Means of each part."""
        return {s.part: {"sequences": s.num_sequences, **s.values} for s in evaluation.summaries}

    def print_tables(self, evaluations: Sequence[HPatchesEvaluation]) -> None:
        """Print the accuracy of each part, published results beside our own."""
        print_table(accuracy_rows(self._summaries(evaluations)))
        if self.data.left_out:
            print(f"left out, as in the paper: {', '.join(self.data.left_out)}")

    def write_tables(self, evaluations: Sequence[HPatchesEvaluation], outputs: Outputs) -> None:
        """Write the means of each sequence, and the curves."""
        rows = [row for e in evaluations for row in sequence_rows(e.feature, e.pair_scores)]
        write_csv(outputs.hpatches_table, rows)
        figure = curves(self._summaries(evaluations))
        write_figure(figure, outputs.accuracy_plot, outputs.accuracy_drawing)

    def make_report(self, evaluations: Sequence[HPatchesEvaluation], outputs: Outputs) -> Report:
        """Make the page, published results beside our own."""
        return hpatches_report(evaluations, self._summaries(evaluations), outputs.accuracy_plot)

    def _summaries(self, evaluations: Sequence[HPatchesEvaluation]) -> list[Summary]:
        return [s for e in evaluations for s in e.summaries] + [*self.others, *PAPER]


def run_hpatches(
    conf: HPatches,
    dataset: Path,
    output: Path,
    others: Sequence[Summary] = (),
    engine: Engine = None,
) -> None:
    """Evaluate one feature in `output`, or several in folders below it, and compare them.

    Raises:
        ShardDone: of a shard, when it is made.
        ValueError: in one sentence that names the file, whatever cannot be used.
    """
    data = read_hpatches(dataset)
    benchmark = HPatchesBenchmark(conf=conf, data=data, others=others, engine=engine)
    benchmark.run(conf.features, output)
