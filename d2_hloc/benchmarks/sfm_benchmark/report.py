"""Table 1 and the report of a scene: models, dense clouds, depth maps, published rows beside."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d2_hloc.files.atomic import write_atomically
from d2_hloc.mvs.report import add_dense
from d2_hloc.mvs.statistics import DenseStatistics
from d2_hloc.reports.model import add_model, model_rows
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.sfm.reconstruct import ModelRun

COLUMNS = (
    "method",
    "registered",
    "points",
    "track length",
    "reprojection, px",
    "dense points",
    "observations",
    "observations an image",
    "inlier pairs",
    "inlier matches",
    "time, s",
)
# Table 1 of the paper: registered images, sparse points, track length, reprojection, dense points.
PUBLISHED: Mapping[str, Mapping[str, Sequence[str]]] = {
    "Madrid_Metropolis": {
        "RootSIFT": ("500 of 1344", "116K", "6.32", "0.60", "1.82M"),
        "GeoDesc": ("495 of 1344", "144K", "5.97", "0.65", "1.56M"),
        "D2 MS": ("501 of 1344", "84K", "6.33", "1.28", "1.46M"),
        "D2 MS trained": ("495 of 1344", "144K", "6.39", "1.35", "1.46M"),
    },
    "Gendarmenmarkt": {
        "RootSIFT": ("1035 of 1463", "338K", "5.52", "0.69", "4.23M"),
        "GeoDesc": ("1004 of 1463", "441K", "5.14", "0.73", "3.88M"),
        "D2 MS": ("1053 of 1463", "250K", "5.08", "1.19", "3.49M"),
        "D2 MS trained": ("965 of 1463", "310K", "5.55", "1.28", "3.15M"),
    },
    "Tower_of_London": {
        "RootSIFT": ("804 of 1576", "239K", "7.76", "0.61", "3.05M"),
        "GeoDesc": ("776 of 1576", "341K", "6.71", "0.63", "2.73M"),
        "D2 MS": ("785 of 1576", "180K", "5.32", "1.24", "2.73M"),
        "D2 MS trained": ("708 of 1576", "287K", "5.20", "1.34", "2.86M"),
    },
}


def table_row(name: str, run: ModelRun) -> tuple[Any, ...]:
    """A feature's line of Table 1 and what is beside it."""
    scores, counts = run.record.scores, run.record.counts
    is_refined = run.record.configuration["refinement"]["enabled"]
    dense = scores.get("dense")
    return (
        f"{name}, refined" if is_refined else name,
        f"{scores['registered_images']} of {counts['images']}",
        scores["points"],
        f"{scores['mean_track_length']:.2f}",
        f"{scores['mean_reprojection_error']:.2f}",
        dense["points"] if dense else "-",
        scores["observations"],
        f"{scores['observations_per_image']:.0f}",
        counts["inlier_pairs"],
        counts["inlier_matches"],
        f"{sum(run.record.timings.values()):.0f}",
    )


def published_rows(scene: str) -> list[tuple[Any, ...]]:
    """The paper's rows of a scene, marked as published."""
    rows = PUBLISHED.get(scene.replace(" ", "_"), {})
    return [(f"published: {n}", *v, *["-"] * (len(COLUMNS) - 6)) for n, v in rows.items()]


def present(name: str, run: ModelRun) -> None:
    """Print and report one feature."""
    print_table(model_rows(run))
    report = Report("Local feature benchmark", subtitle=f"{name}, {run.images}")
    add_model(report, run)
    if "dense" in run.record.scores:
        found = DenseStatistics(**run.record.scores["dense"])
        add_dense(report, found, run.output / "dense")
    report.write(run.output / "report.html")
    print(f"\n{run.output / 'report.html'}")


def compare(scene: str, runs: Mapping[str, ModelRun], output: Path) -> None:
    """All features in one table: in the terminal, table.csv and OUT/report.html."""
    rows = [table_row(name, run) for name, run in runs.items()]
    text = io.StringIO()
    csv.writer(text).writerows([COLUMNS, *rows, *published_rows(scene)])
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "table.csv", text.getvalue().encode())
    print("\n" + " | ".join(COLUMNS))
    for row in rows:
        print(" | ".join(str(value) for value in row))
    report = Report("Local feature benchmark", subtitle=scene)
    report.table("Table 1", [*rows, *published_rows(scene)], columns=COLUMNS)
    report.write(output / "report.html")
    print(f"\n{output / 'report.html'}")
