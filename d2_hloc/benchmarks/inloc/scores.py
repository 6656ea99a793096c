"""Scores of InLoc's queries against ground truth, and the published rows beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from d2_hloc.benchmarks.inloc.pose_files import QueryPoses, best_poses
from d2_hloc.files import features_h5
from d2_hloc.files.hdf5_guard import GuardedDataset, GuardedGroup
from d2_hloc.sfm import pose_errors

THRESHOLDS = ((0.25, 10.0), (0.5, 10.0), (1.0, 10.0))  # metres, degrees: the benchmark's
FINE = (0.05, 1.0)
MEASURED, PUBLISHED = "measured", "published"

Errors = Mapping[str, pose_errors.PoseError]  # by query; infinite where there is no pose


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """A method's line of the table. None is not known; shares are of the queries."""

    method: str
    feature: str
    source: str = MEASURED
    refined: bool | None = None
    num_queries: int = 356
    num_placed: int | None = None
    recall: tuple[float, ...] | None = None  # at THRESHOLDS
    fine: float | None = None  # at FINE
    median_metres: float | None = None  # of those that have a pose
    median_degrees: float | None = None
    megabytes: float | None = None  # of features an image
    seconds: float | None = None  # a query


def _published(
    method: str, feature: str, recall: Sequence[float], megabytes: float | None = None
) -> MethodRow:
    shares = tuple(share / 100 for share in recall)
    return MethodRow(
        method=method, feature=feature, source=PUBLISHED, recall=shares, megabytes=megabytes
    )


# Dusmanu et al., CVPR 2019, Table 2.
PAPER = (
    _published("direct", "Aff. RootSIFT", (18.5, 26.4, 30.4)),
    _published("direct", "D2 MS", (27.7, 40.4, 48.6)),
    _published("sparse", "Aff. RootSIFT", (21.3, 32.2, 44.1), 5),
    _published("sparse", "D2 MS", (35.0, 48.6, 62.6), 120),
    _published("dense (InLoc)", "VGG16", (35.0, 46.2, 58.1), 350),
    _published("sparse+pv", "Aff. RootSIFT", (29.5, 42.6, 54.5)),
    _published("sparse+pv", "D2 MS", (38.0, 54.1, 65.4)),
    _published("dense+pv (InLoc)", "VGG16", (41.0, 56.5, 69.9)),
    _published("combined", "InLoc + D2 MS", (43.2, 61.1, 74.2)),
)


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """Poses by a method with one feature, and their errors where the truth is known."""

    method: str
    feature: str
    refined: bool | None
    found: Sequence[QueryPoses]
    errors: Errors = field(default_factory=dict)
    megabytes: float | None = None
    seconds: float | None = None

    @property
    def row(self) -> MethodRow:
        """The method's line of the table."""
        summary = pose_errors.summarize_poses(self.errors, [*THRESHOLDS, FINE])
        *recall, fine = (recall.share for recall in summary.recalls)
        return MethodRow(
            method=self.method,
            feature=self.feature,
            refined=self.refined,
            num_queries=len(self.errors) or len(self.found),
            num_placed=sum(q.best is not None for q in self.found),
            recall=tuple(recall) if self.errors else None,
            fine=fine if self.errors else None,
            median_metres=summary.median.metres if summary.median else None,
            median_degrees=summary.median.degrees if summary.median else None,
            megabytes=self.megabytes,
            seconds=self.seconds,
        )


def errors_of(found: Sequence[QueryPoses], truth: pose_errors.Poses | None) -> Errors:
    """Measure the poses of the queries that the truth names, by short name."""
    if truth is None:
        return {}
    names = {Path(query.name).name for query in found}
    known = {Path(name).name: pose for name, pose in truth.items()}
    return pose_errors.pose_errors(best_poses(found), {n: known[n] for n in names & set(known)})


def megabytes_an_image(features: Path) -> float:
    """Mean size of an image's features as they are stored, MB of 10^6 bytes."""
    names = features_h5.extracted_names(features)
    with features_h5.open_h5(features) as file:
        sizes = [sum(d.nbytes for d in _datasets(file[name])) for name in names]
    return float(np.mean(sizes)) / 1e6


def _datasets(group: GuardedGroup) -> list[GuardedDataset]:
    return [item for item in group.values() if isinstance(item, GuardedDataset)]


def method_cells(row: MethodRow) -> dict[str, Any]:
    """Cells of a line to print: shares in per cent, medians in centimetres and degrees."""
    shares = row.recall or [None] * len(THRESHOLDS)
    names = [f"{metres:g} m" for metres, _ in THRESHOLDS]
    return {
        "method": row.method,
        "feature": row.feature,
        "refined": None if row.refined is None else "yes" if row.refined else "no",
        "source": row.source,
        "queries": row.num_queries,
        **{n: _percent(s) for n, s in zip(names, shares, strict=True)},
        f"{FINE[0]:g} m, {FINE[1]:g} deg": _percent(row.fine),
        "median cm": _fixed(row.median_metres, 100),
        "median deg": _fixed(row.median_degrees),
        "MB an image": _fixed(row.megabytes),
        "s a query": _fixed(row.seconds),
    }


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}"


def _fixed(value: float | None, factor: float = 1.0) -> str | None:
    return None if value is None else f"{factor * value:.2f}"


def method_scores(row: MethodRow) -> Mapping[str, Any]:
    """Give a row as plain values, by names that say the threshold."""
    shares = row.recall or [None] * len(THRESHOLDS)
    values: dict[str, Any] = {"queries": row.num_queries, "placed": row.num_placed}
    for (metres, degrees), share in zip([*THRESHOLDS, FINE], [*shares, row.fine], strict=True):
        values[f"recall_{metres:g}m_{degrees:g}deg"] = share
    return values | {
        "median_position_error_m": row.median_metres,
        "median_rotation_error_deg": row.median_degrees,
        "megabytes_an_image": row.megabytes,
        "seconds_a_query": row.seconds,
    }
