"""Table and report of an evaluation of relative poses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from d2_hloc.benchmarks.comparison import Evaluation
from d2_hloc.benchmarks.relative_pose.scores import PoseScore
from d2_hloc.core import pose_metrics
from d2_hloc.features.extracted import Extracted
from d2_hloc.matching.match_pairs import MatchedPairs
from d2_hloc.reports.model import add_making, add_skipped
from d2_hloc.reports.page import Report

DEGREES = (5.0, 10.0, 20.0)
WORST = 20  # pairs in the report
NOTE = (
    "The error of a pair is the larger of the angles of rotation and of the translation's "
    "direction; AUC is the area under the curve of the pairs within an error, up to each threshold."
)


@dataclass(frozen=True, kw_only=True)
class RelativePoseSummary:
    """Area under the curve of the pairs within an error, and means over the pairs."""

    num_pairs: int
    auc: tuple[float, ...]  # up to DEGREES
    median_error: float  # degrees; infinite where most pairs have no pose
    mean_matches: float
    mean_inliers: float

    @property
    def values(self) -> dict[str, float]:
        """Numbers by names that say the threshold."""
        areas = {f"auc_{t:g}deg": area for t, area in zip(DEGREES, self.auc, strict=True)}
        return areas | {
            "median_error_deg": self.median_error,
            "mean_matches": self.mean_matches,
            "mean_inliers": self.mean_inliers,
        }


def summarize_relative_poses(scores: Sequence[PoseScore]) -> RelativePoseSummary:
    """Average the scores of all pairs."""
    errors = [s.error for s in scores]
    return RelativePoseSummary(
        num_pairs=len(scores),
        auc=tuple(pose_metrics.error_auc(errors, DEGREES)),
        median_error=float(np.median(errors)) if scores else np.inf,
        mean_matches=float(np.mean([s.num_matches for s in scores])) if scores else 0.0,
        mean_inliers=float(np.mean([s.num_inliers for s in scores])) if scores else 0.0,
    )


@dataclass(frozen=True, kw_only=True)
class RelativePoseEvaluation(Evaluation):
    """A feature's finished evaluation: the scores of all pairs, and what they were made from."""

    features: Extracted
    matches: MatchedPairs
    pair_scores: Sequence[PoseScore]

    @cached_property
    def summary(self) -> RelativePoseSummary:
        """Means over all pairs."""
        return summarize_relative_poses(self.pair_scores)

    @property
    def skipped(self) -> dict[str, str]:
        """Reasons why images and pairs were left out."""
        return {**self.features.failures, **self.matches.failures_by_text}

    @property
    def row(self) -> Mapping[str, Any]:
        """Numbers of the feature, as they are shown."""
        return {
            "pairs": self.summary.num_pairs,
            "pairs skipped": len(self.skipped),
            **self.summary.values,
        }


def relative_pose_report(evaluations: Sequence[RelativePoseEvaluation], subtitle: str) -> Report:
    """Make the page: numbers, the worst pairs, what was skipped, how it was made."""
    report = Report("Relative poses", subtitle=subtitle)
    for e in evaluations:
        label = "" if len(evaluations) == 1 else f"{e.feature}: "
        areas = zip(DEGREES, e.summary.auc, strict=True)
        report.headline([(f"{label}AUC at {t:g} degrees", f"{area:.3f}") for t, area in areas])
    rows = [{"feature": e.feature, **e.row} for e in evaluations]
    report.table("Numbers", rows, note=NOTE)
    for e in evaluations:
        worst = sorted(e.pair_scores, key=lambda s: -s.error)[:WORST]
        report.table(f"Worst pairs: {e.feature}", [asdict(s) for s in worst])
    add_skipped(report, {e.feature: e.skipped for e in evaluations})
    add_making(report, {e.feature: e.record for e in evaluations})
    return report
