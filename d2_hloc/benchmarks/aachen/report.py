"""The end of an Aachen run: a table in the terminal and report.html, published rows beside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from d2_hloc.benchmarks.aachen.results import PUBLISHED
from d2_hloc.reports.localization import (
    add_localization,
    localization_rows,
    print_queries,
    score_queries,
)
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.sfm import pose_errors
from d2_hloc.sfm.localize import LocalizationRun

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


def present(run: LocalizationRun, known: pose_errors.Poses | None) -> None:
    """Score, print and report one feature."""
    errors = score_queries(run, known)
    if errors:
        night = pose_errors.summarize_poses(errors, pose_errors.NIGHT_THRESHOLDS)
        run.record.scores["night_until_2020"] = {
            key: value for key, value in night.to_dict().items() if key.startswith("recall")
        }
        run.record.write()
    name = str(run.record.configuration["features"][0])
    print_table(localization_rows(run, errors))
    print_queries(run.found, errors)
    report = Report("Aachen Day-Night", subtitle=f"{name}, {run.queries}")
    report.table("Queries placed", [summary_row(name, run), *published_rows()], columns=COLUMNS)
    add_localization(report, run, errors)
    report.table("Of the published rows", [(PUBLISHED_NOTE,)], columns=("",))
    report.write(run.output / "report.html")
    print(f"\n{run.output / 'report.html'}")


def compare(runs: Mapping[str, LocalizationRun], output: Path) -> None:
    """All features in one table, in the terminal and in OUT/report.html."""
    rows = [summary_row(name, run) for name, run in runs.items()]
    print("\n" + "  ".join(COLUMNS))
    for row in rows:
        print("  ".join(str(value) for value in row))
    report = Report("Aachen Day-Night", subtitle="features compared")
    report.table("Queries placed", [*rows, *published_rows()], columns=COLUMNS)
    report.table("Of the published rows", [(PUBLISHED_NOTE,)], columns=("",))
    report.write(output / "report.html")
    print(f"\n{output / 'report.html'}")


def summary_row(name: str, run: LocalizationRun) -> tuple[Any, ...]:
    """A feature's line; dashes where there is no ground truth."""
    refined = run.record.configuration["refinement"]["enabled"]
    truth = run.record.scores.get("ground_truth", {})
    shares = [f"{100 * truth[key]:.1f}" for key in truth if key.startswith("recall")]
    median = truth.get("median_position_error_m", np.nan)
    degrees = truth.get("median_rotation_error_deg", np.nan)
    return (
        f"{name}, refined" if refined else name,
        f"{run.record.counts['localized']} of {run.record.counts['queries']}",
        *(shares or ["-"] * 3),
        "-" if np.isnan(median) else f"{1000 * median:.1f}",
        "-" if np.isnan(degrees) else f"{degrees:.3f}",
    )


def published_rows() -> list[tuple[Any, ...]]:
    """What others have published, marked as that."""
    return [
        (f"published: {name}", "", *(f"{share:.1f}" for share in shares), "-", "-")
        for name, shares in PUBLISHED.items()
    ]
