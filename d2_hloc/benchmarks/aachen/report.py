"""Tables and report of a run on Aachen, published rows beside our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from d2_hloc.benchmarks.aachen.results import PUBLISHED
from d2_hloc.benchmarks.comparison import Evaluation
from d2_hloc.reports.localization import add_localization
from d2_hloc.reports.page import Report
from d2_hloc.sfm import pose_errors
from d2_hloc.sfm.localize import LocalizationRun
from d2_hloc.sfm.pose_errors import PoseError, PoseSummary

COLUMNS = (
    "method",
    "placed",
    "0.25 m, 2 deg",
    "0.5 m, 5 deg",
    "5 m, 10 deg",
    "median error, mm",
    "median error, deg",
)
PUBLISHED_NOTE = (
    "Published rows: percent of the 98 night queries of Aachen Day-Night v1, from hloc's README. "
    "The D2-Net paper shows its results as a plot."
)


@dataclass(frozen=True, kw_only=True)
class AachenEvaluation(Evaluation):
    """A feature's finished run, and the errors of its queries where the truth is known."""

    run: LocalizationRun
    is_refined: bool
    errors: Mapping[str, PoseError]

    @cached_property
    def summary(self) -> PoseSummary | None:
        """Errors within the benchmark's thresholds."""
        return pose_errors.summarize_poses(self.errors) if self.errors else None

    @cached_property
    def night(self) -> PoseSummary | None:
        """Errors within the thresholds of night queries until mid-2020."""
        if not self.errors:
            return None
        return pose_errors.summarize_poses(self.errors, pose_errors.NIGHT_THRESHOLDS)


def feature_row(evaluation: AachenEvaluation) -> dict[str, Any]:
    """Make a feature's line; dashes where there is no ground truth."""
    found, summary = evaluation.run.found, evaluation.summary
    placed = sum(not query.reason for query in found)
    shares, medians = ["-"] * 3, ["-"] * 2
    if summary is not None:
        shares = [f"{100 * recall.share:.1f}" for recall in summary.recalls]
    if summary is not None and summary.median is not None:
        medians = [f"{1000 * summary.median.metres:.1f}", f"{summary.median.degrees:.3f}"]
    name = evaluation.feature
    cells = [f"{name}, refined" if evaluation.is_refined else name, f"{placed} of {len(found)}"]
    return dict(zip(COLUMNS, [*cells, *shares, *medians], strict=True))


def published_night_rows() -> list[dict[str, Any]]:
    """Make the lines of results that others have published, marked as that."""
    rows = []
    for name, shares in PUBLISHED.items():
        cells = [f"published: {name}", "", *(f"{share:.1f}" for share in shares), "-", "-"]
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def aachen_report(evaluations: Sequence[AachenEvaluation]) -> Report:
    """Make the page: the table, and of a single feature its queries too."""
    first = evaluations[0]
    is_single = len(evaluations) == 1
    subtitle = f"{first.feature}, {first.run.queries}" if is_single else "features compared"
    report = Report("Aachen Day-Night", subtitle=subtitle)
    rows = [*map(feature_row, evaluations), *published_night_rows()]
    report.table("Queries placed", rows, note=PUBLISHED_NOTE)
    if is_single:
        add_localization(report, first.run, first.errors)
    return report
