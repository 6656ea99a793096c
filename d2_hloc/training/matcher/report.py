"""The end of a matcher's training: curves, a table; report.html."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from d2_hloc.files.run_record import RunRecord
from d2_hloc.reports.charts import curves_figure
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.training.history import Row, Table
from d2_hloc.training.matcher.loop import LOSSES, VALIDATION

SMOOTHED = 200  # points of the loss's curve at most; each is a mean
ABOUT = (
    "Of pairs that are not trained with: precision is the share of matches, of those whose truth "
    "is known, that are right; recall the share of partners that are found. Mutual nearest "
    "neighbours are of the same features."
)


def report_matcher_training(record: RunRecord, subtitle: str) -> None:
    """Print what came of the run, and write its report."""
    measured = Table(record.outputs.validation, VALIDATION).rows()
    losses = Table(record.outputs.losses, LOSSES).rows()
    rows = {"before": measured[0], "best": best(measured), "last": measured[-1]}
    record.scores = {
        name: {key: value for key, value in row.items() if np.isfinite(value)}
        for name, row in rows.items()
    }
    record.write()
    report = Report("Training of the matcher", subtitle=subtitle)
    report.headline(headline(measured))
    report.figure("Loss", curves_figure({"training": loss_curve(losses)}, "step", "loss"))
    report.figure("Matches", curves_figure(matcher_curves(measured), "step", "share"), note=ABOUT)
    report.table("Validations", measured, columns=VALIDATION)
    path = report.write(record.outputs.report)
    print_table(headline(measured))
    print(f"\n{path}\n{record.outputs.best_weights}")


def best(measured: Sequence[Row]) -> Row:
    """The row whose matcher was kept: the first of the highest score."""
    return max(measured, key=score)


def score(row: Row) -> float:
    """F1 on views, or its mean with that on scenes."""
    precision, recall = row["scene_precision"], row["scene_recall"]
    if not np.isfinite(precision):
        return row["f1"]
    return (row["f1"] + 2 * precision * recall / max(1e-9, precision + recall)) / 2


def headline(measured: Sequence[Row]) -> list[tuple[str, object]]:
    """Names and values of the numbers that matter."""
    top = best(measured)
    return [
        ("steps", measured[-1]["step"]),
        ("best step", top["step"]),
        ("precision before", measured[0]["precision"]),
        ("precision at best", top["precision"]),
        ("recall before", measured[0]["recall"]),
        ("recall at best", top["recall"]),
        ("precision of mutual neighbours", top["neighbours_precision"]),
        ("recall of mutual neighbours", top["neighbours_recall"]),
    ]


def matcher_curves(measured: Sequence[Row]) -> dict[str, tuple[list[float], list[float]]]:
    """Precision and recall over the step, on views and, where there are some, scenes."""
    steps = [row["step"] for row in measured]
    names = {
        "precision": "precision",
        "recall": "recall",
        "scene_precision": "precision, scenes",
        "scene_recall": "recall, scenes",
    }
    found = {name: (steps, [row[key] for row in measured]) for key, name in names.items()}
    return {name: curve for name, curve in found.items() if np.isfinite(curve[1]).any()}


def loss_curve(losses: Sequence[Row]) -> tuple[list[float], list[float]]:
    """The loss over the step: means of neighbouring steps."""
    y = np.array([row["loss"] for row in losses], dtype=float)
    parts = np.array_split(np.arange(len(y)), min(SMOOTHED, max(1, len(y))))
    parts = [part for part in parts if len(part)]
    return [float(p.mean() + 1) for p in parts], [float(y[p].mean()) for p in parts]
