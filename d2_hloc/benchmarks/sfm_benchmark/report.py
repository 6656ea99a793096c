"""Table 1 and the report of a scene, published rows beside our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from d2_hloc.benchmarks.comparison import Evaluation
from d2_hloc.mvs.report import add_dense
from d2_hloc.mvs.statistics import DenseStatistics
from d2_hloc.reports.model import add_model, registered_text
from d2_hloc.reports.page import Report
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


@dataclass(frozen=True, kw_only=True)
class SfmEvaluation(Evaluation):
    """A feature's finished model of a scene, and its dense cloud where one was asked for."""

    run: ModelRun
    dense: DenseStatistics | None

    @property
    def is_refined(self) -> bool:
        """Whether the model is of refined keypoints."""
        return self.run.database.refined is not None


def model_row(evaluation: SfmEvaluation) -> dict[str, Any]:
    """Make a feature's line of Table 1, and the columns beside it."""
    run, dense = evaluation.run, evaluation.dense
    found, database = run.statistics, run.database
    name = evaluation.feature
    cells = (
        f"{name}, refined" if evaluation.is_refined else name,
        registered_text(run),
        found.points,
        f"{found.mean_track_length:.2f}",
        f"{found.mean_reprojection_error:.2f}",
        dense.points if dense else "-",
        found.observations,
        f"{found.observations_per_image:.0f}",
        database.inlier_pairs,
        database.inlier_matches,
        f"{sum(run.record.timings.values()):.0f}",
    )
    return dict(zip(COLUMNS, cells, strict=True))


def published_model_rows(scene: str) -> list[dict[str, Any]]:
    """Make the paper's lines of a scene, marked as published."""
    rows = PUBLISHED.get(scene.replace(" ", "_"), {})
    unknown = ["-"] * (len(COLUMNS) - 6)
    return [
        dict(zip(COLUMNS, [f"published: {name}", *values, *unknown], strict=True))
        for name, values in rows.items()
    ]


def sfm_report(evaluations: Sequence[SfmEvaluation], scene: str) -> Report:
    """Make the page: Table 1 of several features, or the model and cloud of one."""
    first = evaluations[0]
    if len(evaluations) > 1:
        report = Report("Local feature benchmark", subtitle=scene)
        report.table("Table 1", [*map(model_row, evaluations), *published_model_rows(scene)])
        return report
    report = Report("Local feature benchmark", subtitle=f"{first.feature}, {first.run.images}")
    add_model(report, first.run)
    if first.dense is not None:
        add_dense(report, first.dense, first.outputs.dense)
    return report
