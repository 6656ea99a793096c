"""Table, curves and report of an evaluation on HPatches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2_hloc.benchmarks.comparison import Evaluation
from d2_hloc.benchmarks.hpatches.data import HomographyPair, HPatchesData
from d2_hloc.benchmarks.hpatches.results import (
    CORNER_THRESHOLDS,
    MEASURED,
    PARTS,
    PUBLISHED,
    TABLED,
    Summary,
    means_by_part,
    sequence_rows,
)
from d2_hloc.benchmarks.hpatches.scores import HomographyScore
from d2_hloc.benchmarks.pair_scores import MatchedPair, Refine, read_pair
from d2_hloc.core import homography_metrics
from d2_hloc.features.extracted import Extracted
from d2_hloc.files import features_h5
from d2_hloc.matching.match_pairs import MatchedPairs
from d2_hloc.reports.curves import Line, accuracy_figure
from d2_hloc.reports.drawing import draw_matches, open_or_blank
from d2_hloc.reports.model import add_making, add_skipped
from d2_hloc.reports.page import Report

DRAWN = 2  # best and worst pairs each, of a feature
RIGHT = 3  # pixels within which a match is drawn as right
PROTOCOL = (
    "Mutual nearest neighbours. A match is right if its error in the second image is at most the "
    "threshold; shares are means over the matches of a pair, then over pairs, and a pair without "
    "a match counts as 0. Rows marked published are Figure 4 of the D2-Net paper, on all 108 "
    "sequences; they compare with what is measured here on those alone."
)


@dataclass(frozen=True, kw_only=True)
class HPatchesEvaluation(Evaluation):
    """A feature's finished evaluation: the scores of all pairs, and what they were made from."""

    data: HPatchesData
    features: Extracted
    matches: MatchedPairs
    pair_scores: Sequence[HomographyScore]
    refine: Refine | None = None

    @cached_property
    def summaries(self) -> list[Summary]:
        """Means over all pairs and over each kind."""
        return means_by_part(self.feature, self.pair_scores)

    @property
    def skipped(self) -> dict[str, str]:
        """Reasons why sequences, images and pairs were left out."""
        return {
            **self.data.problems,
            **self.features.failures,
            **self.matches.failures_by_text,
        }


def curves(summaries: Iterable[Summary]) -> Any:
    """Draw Figure 4 of the paper: overall, illumination, viewpoint."""
    panels: dict[str, list[Line]] = {part.capitalize(): [] for part in PARTS}
    for s in summaries:
        label = s.feature if s.source == MEASURED else f"{s.feature} ({s.source})"
        line = Line(label=label, values=s.accuracy, is_grey=s.source == PUBLISHED)
        panels[s.part.capitalize()].append(line)
    return accuracy_figure({part: lines for part, lines in panels.items() if lines})


def accuracy_rows(summaries: Iterable[Summary]) -> list[dict[str, Any]]:
    """Make the main table, part by part."""
    rows = []
    for s in sorted(summaries, key=lambda s: list(PARTS).index(s.part)):
        row = {
            "": s.part,
            "feature": s.feature,
            "source": s.source,
            "sequences": s.num_sequences,
            "pairs": s.num_pairs,
            "features": None if s.num_features is None else round(s.num_features),
            "matches": None if s.num_matches is None else round(s.num_matches),
        }
        rows.append(row | {f"{t} px": f"{s.accuracy[t - 1]:.3f}" for t in TABLED})
    return rows


def other_rows(summaries: Iterable[Summary]) -> list[dict[str, Any]]:
    """Make the table of repeatability, matching score and homographies, of our own results."""
    rows = []
    for s in summaries:
        if s.corner_auc is not None:
            row = {
                "": s.part,
                "feature": s.feature,
                "repeatability": f"{s.repeatability:.3f}",
                "matching score": f"{s.matching_score:.3f}",
            }
            areas = zip(CORNER_THRESHOLDS, s.corner_auc, strict=True)
            rows.append(row | {f"AUC {t:g} px": f"{area:.3f}" for t, area in areas})
    return sorted(rows, key=lambda row: list(PARTS).index(row[""]))


def hpatches_report(
    evaluations: Sequence[HPatchesEvaluation], summaries: Sequence[Summary], plot: Path
) -> Report:
    """Make the page: curves, tables, drawings, what was skipped, how it was made."""
    data = evaluations[0].data
    report = Report("HPatches", subtitle=str(data.folder))
    for e in evaluations:
        overall = e.summaries[0]
        report.headline(
            [(f"{e.feature}: accuracy within {RIGHT} px", f"{overall.accuracy[RIGHT - 1]:.3f}")]
        )
    with Image.open(plot) as picture:
        report.picture("Mean matching accuracy", picture.convert("RGB"), note=PROTOCOL)
    report.table("Mean matching accuracy", accuracy_rows(summaries))
    report.table("Detections and homographies", other_rows(summaries), note=OTHER_NOTE)
    for e in evaluations:
        report.picture(f"Best and worst pairs: {e.feature}", draw_extremes(e))
    for e in evaluations:
        report.table(f"Sequences: {e.feature}", short_sequence_rows(e))
    add_skipped(report, {e.feature: e.skipped for e in evaluations})
    if data.left_out:
        report.text("Left out, as in the paper", ", ".join(data.left_out))
    add_making(report, {e.feature: e.record for e in evaluations})
    return report


OTHER_NOTE = (
    "Repeatability and matching score within 3 pixels, as defined with SuperPoint. AUC: the area "
    "under the curve of the pairs whose estimated homography moves the image's corners to within "
    "1, 3, 5 pixels of where they belong."
)


def short_sequence_rows(evaluation: HPatchesEvaluation) -> list[dict[str, Any]]:
    """Make a row for each sequence, worst first."""
    rows = [
        {
            "sequence": row["sequence"],
            "pairs": row["pairs"],
            "features": round(row["features"]),
            "matches": round(row["matches"]),
            **{f"{t} px": f"{row[f'mma_{t}px']:.3f}" for t in TABLED},
        }
        for row in sequence_rows(evaluation.feature, evaluation.pair_scores)
    ]
    return sorted(rows, key=lambda row: row[f"{RIGHT} px"])


def draw_extremes(evaluation: HPatchesEvaluation) -> list[tuple[Image.Image, str]]:
    """Draw the pairs of highest and of lowest accuracy, with captions."""
    order = sorted(evaluation.pair_scores, key=lambda s: (-s.accuracy[RIGHT - 1], s.name1))
    half = min(DRAWN, (len(order) + 1) // 2)
    chosen = dict.fromkeys([*range(half), *range(len(order) - half, len(order))])
    pairs = {pair.names: pair for pair in evaluation.data.pairs}
    with (
        features_h5.open_h5(evaluation.features.path) as features,
        features_h5.open_h5(evaluation.matches.path) as matches,
    ):
        return [
            draw_scored_pair(
                evaluation,
                pairs[order[k].names],
                read_pair(order[k].names, features, matches, evaluation.refine),
            )
            for k in chosen
        ]


def draw_scored_pair(
    evaluation: HPatchesEvaluation, pair: HomographyPair, found: MatchedPair
) -> tuple[Image.Image, str]:
    """Draw two images and their matches, the wrong ones red."""
    right = homography_metrics.transfer_errors(*found.matched, pair.homography) <= RIGHT
    accuracy = right.mean() if len(right) else 0.0
    image0, image1 = (open_or_blank(evaluation.data.folder / name) for name in pair.names)
    caption = (
        f"{pair.name0} - {pair.name1}: {np.count_nonzero(right)} of {len(right)} matches within "
        f"{RIGHT} px ({accuracy:.3f})"
    )
    return draw_matches(image0, image1, *found.matched, inliers=right), caption
