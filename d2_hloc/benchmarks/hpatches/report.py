"""The end of an evaluation on HPatches: table, curves, CSV, cache file and report.html."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2_hloc.benchmarks.hpatches import shared_results
from d2_hloc.benchmarks.hpatches.data import HomographyPair, HPatches
from d2_hloc.benchmarks.hpatches.results import (
    CORNER_THRESHOLDS,
    MEASURED,
    PAPER,
    PARTS,
    PUBLISHED,
    SHOWN,
    TABLED,
    Summary,
    sequence_rows,
    summarize,
    to_cache,
    write_csv,
)
from d2_hloc.benchmarks.hpatches.scores import PairScore, Refine, keypoints_of, matched_keypoints
from d2_hloc.core import homography_metrics
from d2_hloc.features import registry
from d2_hloc.files import features_h5
from d2_hloc.files.run_record import RunRecord
from d2_hloc.reports.curves import Line, accuracy_figure, write_figure
from d2_hloc.reports.drawing import draw_matches
from d2_hloc.reports.model import add_making, add_skipped, open_or_blank
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table

DRAWN = 2  # best and worst pairs each, of a feature
RIGHT = 3  # pixels within which a match is drawn as right
PROTOCOL = (
    "Mutual nearest neighbours. A match is right if its error in the second image is at most the "
    "threshold; shares are means over the matches of a pair, then over pairs, and a pair without "
    "a match counts as 0. Rows marked published are Figure 4 of the D2-Net paper, on all 108 "
    "sequences; they compare with what is measured here on those alone."
)


@dataclass(frozen=True)
class Evaluation:
    """A feature's finished evaluation, and the folder of its files."""

    feature: str
    data: HPatches
    scores: Sequence[PairScore]
    record: RunRecord
    folder: Path
    refine: Refine | None = None

    @property
    def summaries(self) -> list[Summary]:
        return summarize(self.feature, self.scores)


def conclude(evaluation: Evaluation, others: Sequence[Summary] = ()) -> Evaluation:
    """Note counts and scores in run.json, write the cache file, and present the evaluation."""
    record, data = evaluation.record, evaluation.data
    record.counts = {
        "sequences": len({s.sequence for s in evaluation.scores}),
        "pairs": len(evaluation.scores),
        "images": len(data.image_names),
        "left_out_sequences": list(data.left_out),
        "skipped": skipped(evaluation),
    }
    record.scores = {s.part: summary_values(s) for s in evaluation.summaries}
    record.write()
    cache = evaluation.folder / f"{registry.file_name(evaluation.feature)}.npy"
    shared_results.write(cache, to_cache(evaluation.scores))
    present([evaluation], evaluation.folder, others)
    return evaluation


def compare(
    evaluations: Sequence[Evaluation],
    record: RunRecord,
    output: Path,
    others: Sequence[Summary] = (),
) -> None:
    """Present several features beside each other, and note the scores of all in one record."""
    record.counts = {e.feature: e.record.counts for e in evaluations}
    record.scores = {e.feature: e.record.scores for e in evaluations}
    record.timings = {e.feature: round(sum(e.record.timings.values()), 2) for e in evaluations}
    record.write()
    present(evaluations, output, others)


def skipped(evaluation: Evaluation) -> dict[str, str]:
    """Whatever was not evaluated, by name, and why."""
    return {
        **evaluation.data.problems,
        **features_h5.read_failures(evaluation.folder / "features.h5"),
        **features_h5.read_failures(evaluation.folder / "matches.h5"),
    }


def summary_values(summary: Summary) -> dict[str, Any]:
    """A summary as plain values, by names that say the threshold."""
    values: dict[str, Any] = {
        "sequences": summary.num_sequences,
        "pairs": summary.num_pairs,
        "features": summary.num_features,
        "matches": summary.num_matches,
    }
    values |= {f"mma_{t}px": a for t, a in zip(SHOWN, summary.accuracy, strict=True)}
    values |= {
        "repeatability": summary.repeatability,
        "matching_score": summary.matching_score,
    }
    areas = summary.corner_auc or [None] * len(CORNER_THRESHOLDS)
    return values | {
        f"corner_auc_{t:g}px": a for t, a in zip(CORNER_THRESHOLDS, areas, strict=True)
    }


def present(
    evaluations: Sequence[Evaluation], output: Path, others: Sequence[Summary] = ()
) -> None:
    """Print the table; write OUT/{hpatches.csv, mma.png, mma.svg, report.html}.

    `others` are results that other papers share.
    """
    summaries = [s for e in evaluations for s in e.summaries] + [*others, *PAPER]
    rows = [row for e in evaluations for row in sequence_rows(e.feature, e.scores)]
    write_csv(output / "hpatches.csv", rows)
    write_figure(curves(summaries), output / "mma.png", output / "mma.svg")
    make_report(evaluations, summaries, output).write(output / "report.html")
    print_table(accuracy_rows(summaries))
    for evaluation in evaluations:
        for name, reason in skipped(evaluation).items():
            print(f"skipped by {evaluation.feature}: {name}: {reason}")
        if evaluation.data.left_out:
            print(f"left out, as in the paper: {', '.join(evaluation.data.left_out)}")
    print(f"\n{output / 'report.html'}")


def curves(summaries: Iterable[Summary]) -> Any:
    """Figure 4 of the paper: overall, illumination, viewpoint."""
    panels: dict[str, list[Line]] = {part.capitalize(): [] for part in PARTS}
    for s in summaries:
        label = s.feature if s.source == MEASURED else f"{s.feature} ({s.source})"
        line = Line(label=label, values=s.accuracy, is_grey=s.source == PUBLISHED)
        panels[s.part.capitalize()].append(line)
    return accuracy_figure({part: lines for part, lines in panels.items() if lines})


def accuracy_rows(summaries: Iterable[Summary]) -> list[dict[str, Any]]:
    """The main table, part by part."""
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
    """Repeatability, matching score and homographies of what was measured here."""
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


def make_report(
    evaluations: Sequence[Evaluation], summaries: Sequence[Summary], output: Path
) -> Report:
    """The page: curves, tables, drawings, what was skipped, how it was made."""
    data = evaluations[0].data
    report = Report("HPatches", subtitle=str(data.folder))
    for e in evaluations:
        overall = e.summaries[0]
        report.headline(
            [(f"{e.feature}: accuracy within {RIGHT} px", f"{overall.accuracy[RIGHT - 1]:.3f}")]
        )
    with Image.open(output / "mma.png") as picture:
        report.picture("Mean matching accuracy", picture.convert("RGB"), note=PROTOCOL)
    report.table("Mean matching accuracy", accuracy_rows(summaries))
    report.table("Detections and homographies", other_rows(summaries), note=OTHER_NOTE)
    for e in evaluations:
        report.picture(f"Best and worst pairs: {e.feature}", draw_extremes(e))
    for e in evaluations:
        report.table(f"Sequences: {e.feature}", short_sequence_rows(e))
    add_skipped(report, {e.feature: skipped(e) for e in evaluations})
    if data.left_out:
        report.text("Left out, as in the paper", ", ".join(data.left_out))
    add_making(report, {e.feature: e.record for e in evaluations})
    return report


OTHER_NOTE = (
    "Repeatability and matching score within 3 pixels, as defined with SuperPoint. AUC: the area "
    "under the curve of the pairs whose estimated homography moves the image's corners to within "
    "1, 3, 5 pixels of where they belong."
)


def short_sequence_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A row a sequence, worst first."""
    rows = [
        {
            "sequence": row["sequence"],
            "pairs": row["pairs"],
            "features": round(row["features"]),
            "matches": round(row["matches"]),
            **{f"{t} px": f"{row[f'mma_{t}px']:.3f}" for t in TABLED},
        }
        for row in sequence_rows(evaluation.feature, evaluation.scores)
    ]
    return sorted(rows, key=lambda row: row[f"{RIGHT} px"])


def draw_extremes(evaluation: Evaluation) -> list[tuple[Image.Image, str]]:
    """The pairs of highest and of lowest accuracy, with captions."""
    order = sorted(evaluation.scores, key=lambda s: (-s.accuracy[RIGHT - 1], s.name1))
    half = min(DRAWN, (len(order) + 1) // 2)
    chosen = dict.fromkeys([*range(half), *range(len(order) - half, len(order))])
    pairs = {pair.names: pair for pair in evaluation.data.pairs}
    return [draw_pair(evaluation, pairs[order[k].name0, order[k].name1], order[k]) for k in chosen]


def draw_pair(
    evaluation: Evaluation, pair: HomographyPair, score: PairScore
) -> tuple[Image.Image, str]:
    """Two images and their matches, the wrong ones red."""
    with features_h5.open_h5(evaluation.folder / "features.h5") as file:
        keypoints = [keypoints_of(file, name) for name in pair.names]
    matches = features_h5.read_matches(evaluation.folder / "matches.h5", *pair.names)
    xy0, xy1 = matched_keypoints(pair.names, *keypoints, matches, evaluation.refine)
    right = homography_metrics.transfer_errors(xy0, xy1, pair.homography) <= RIGHT
    images = [open_or_blank(evaluation.data.folder / name) for name in pair.names]
    caption = (
        f"{pair.name0} - {pair.name1}: {np.count_nonzero(right)} of {len(right)} matches within "
        f"{RIGHT} px ({score.accuracy[RIGHT - 1]:.3f})"
    )
    return draw_matches(*images, xy0, xy1, right), caption
