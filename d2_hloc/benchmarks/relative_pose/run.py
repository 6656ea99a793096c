"""Options of relative poses, and the steps of a run: images, features, matches, poses, errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2_hloc.benchmarks.arguments import split_matcher
from d2_hloc.benchmarks.comparison import Benchmark
from d2_hloc.benchmarks.pair_scores import PAIRWISE, refinement_of_pairs
from d2_hloc.benchmarks.relative_pose.data import PosedPair, read_posed_pairs
from d2_hloc.benchmarks.relative_pose.report import RelativePoseEvaluation, relative_pose_report
from d2_hloc.benchmarks.relative_pose.scores import RelativePoseOptions, score_poses
from d2_hloc.benchmarks.tables import write_csv
from d2_hloc.core import config
from d2_hloc.features.on_cluster import extract_on
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.ray import Engine
from d2_hloc.files.shards import end_of_shards
from d2_hloc.matching.on_cluster import match_on
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.refinement.options import RefinementOptions, SpreadingOptions
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table


@dataclass(frozen=True, kw_only=True)
class RelativePose:
    """Extraction and matching of pairs, and estimation of their poses.

    Attributes:
        features: features to compare, by name: d2net, sift, ... or NAME+lightglue; see
            configs/hpatches.yaml.
        extraction: features of the images.
        matching: how two images are matched.
        refinement: sub-pixel places of the second keypoint of each match.
        spreading: more matches around refined ones, and only those that agree.
        estimation: from matches to a pose.
    """

    features: tuple[str, ...] = ()  # to compare; without any, the extraction's own
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    refinement: RefinementOptions = field(default_factory=lambda: PAIRWISE)
    spreading: SpreadingOptions = field(default_factory=SpreadingOptions)
    estimation: RelativePoseOptions = field(default_factory=RelativePoseOptions)


@dataclass(frozen=True, kw_only=True)
class RelativePoseBenchmark(Benchmark[RelativePoseEvaluation]):
    """Pairs with known poses, their images, and options."""

    conf: RelativePose
    listed: Path
    images: Path
    pairs: Sequence[PosedPair]
    engine: Engine = None

    @property
    def shared_configuration(self) -> dict[str, Any]:
        """Inputs and options."""
        options = config.to_dict(self.conf)
        del options["features"]  # which may join later
        return {"pairs": str(self.listed), "images": str(self.images), **options}

    def evaluate(self, feature: str, outputs: Outputs) -> RelativePoseEvaluation:
        """Extract, match, and estimate poses."""
        name, matching = split_matcher(feature, self.conf.matching)
        options = replace(self.conf.extraction, feature=name)
        rules = {"extraction": config.to_dict(options), "matching": config.to_dict(matching)}
        asked = {**self.shared_configuration, **rules}
        record = self.record_of(outputs, asked)
        names = list(dict.fromkeys(name for pair in self.pairs for name in pair.names))
        with record.timed("extract"):
            features = extract_on(self.engine, options, self.images, outputs.features, names)
        with record.timed("match"):
            pairs = [pair.names for pair in self.pairs]
            matches = match_on(self.engine, matching, pairs, features.path, outputs.matches)
        end_of_shards(self.engine, outputs.folder)
        conf = self.conf
        refine = refinement_of_pairs(conf.refinement, conf.spreading, self.images, features)
        with record.timed("estimate"):
            scores = score_poses(
                self.conf.estimation,
                self.pairs,
                features.path,
                matches,
                outputs.pair_scores,
                refine,
            )
        write_csv(outputs.relative_pose_table, [asdict(score) for score in scores])
        return RelativePoseEvaluation(
            feature=feature, record=record, features=features, matches=matches, pair_scores=scores
        )

    def counts(self, evaluation: RelativePoseEvaluation) -> dict[str, Any]:
        """Pairs, and what was skipped."""
        return {"pairs": len(evaluation.pair_scores), "skipped": evaluation.skipped}

    def scores(self, evaluation: RelativePoseEvaluation) -> dict[str, float | None]:
        """Areas under the curve and means; None for an infinite one, which JSON does not have."""
        values = evaluation.summary.values
        return {name: value if np.isfinite(value) else None for name, value in values.items()}

    def print_tables(self, evaluations: Sequence[RelativePoseEvaluation]) -> None:
        """Print the numbers of one feature below each other, of several side by side."""
        if len(evaluations) == 1:
            print_table(evaluations[0].row.items())
        else:
            print_table([{"feature": e.feature, **e.row} for e in evaluations])

    def make_report(
        self, evaluations: Sequence[RelativePoseEvaluation], outputs: Outputs
    ) -> Report:
        """Make the page."""
        return relative_pose_report(evaluations, str(outputs.folder))


def run_relative_pose(
    conf: RelativePose, pairs: Path, images: Path, output: Path, engine: Engine = None
) -> None:
    """Evaluate one feature in `output`, or several in folders below it, and compare them.

    Raises:
        ValueError: in one sentence that names the file, whatever cannot be used.
    """
    benchmark = RelativePoseBenchmark(
        conf=conf, listed=pairs, images=images, pairs=read_posed_pairs(pairs), engine=engine
    )
    benchmark.run(conf.features or (conf.extraction.feature,), output)
