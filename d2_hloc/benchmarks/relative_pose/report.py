"""The end of an evaluation of relative poses: table, CSV and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from d2_hloc.benchmarks.hpatches.results import write_csv
from d2_hloc.benchmarks.relative_pose.scores import PoseScore
from d2_hloc.core import pose_metrics
from d2_hloc.files.run_record import RunRecord
from d2_hloc.reports.charts import timings_figure
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table

DEGREES = (5.0, 10.0, 20.0)
WORST = 20  # pairs in the report
NOTE = (
    "The error of a pair is the larger of the angles of rotation and of the translation's "
    "direction; AUC is the area under the curve of the pairs within an error, up to each threshold."
)


def summarize(scores: Sequence[PoseScore]) -> dict[str, float]:
    """Area under the curve of errors, and means; names say the threshold in degrees."""
    areas = pose_metrics.error_auc([s.error for s in scores], DEGREES)
    values = {f"auc_{t:g}deg": area for t, area in zip(DEGREES, areas, strict=True)}
    return values | {
        "median_error_deg": float(np.median([s.error for s in scores])) if scores else np.inf,
        "mean_matches": float(np.mean([s.num_matches for s in scores])) if scores else 0.0,
        "mean_inliers": float(np.mean([s.num_inliers for s in scores])) if scores else 0.0,
    }


def present(
    record: RunRecord, scores: Sequence[PoseScore], skipped: Mapping[str, str], output: Path
) -> None:
    """Note and print the scores; write OUT/{relative_pose.csv, report.html}."""
    found = summarize(scores)
    record.scores = {k: v if np.isfinite(v) else None for k, v in found.items()}
    record.counts = {"pairs": len(scores), "skipped": dict(skipped)}
    record.write()
    write_csv(output / "relative_pose.csv", [asdict(s) for s in scores])
    rows = [("pairs", len(scores)), ("pairs skipped", len(skipped)), *found.items()]
    print_table(rows)
    report = Report("Relative poses", subtitle=str(output))
    report.headline([(f"AUC at {t:g} degrees", f"{found[f'auc_{t:g}deg']:.3f}") for t in DEGREES])
    report.table("Numbers", rows, columns=("", "value"), note=NOTE)
    worst = sorted(scores, key=lambda s: -s.error)[:WORST]
    report.table("Worst pairs", [asdict(s) for s in worst])
    if skipped:
        report.table("Skipped", list(skipped.items()), columns=("what", "why"))
    report.figure("Time", timings_figure(record.timings))
    report.listing("Configuration", json.dumps(record.configuration, indent=1))
    report.write(output / "report.html")
    print(f"\n{output / 'report.html'}")
