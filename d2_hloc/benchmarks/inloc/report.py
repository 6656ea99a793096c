"""Tables, result files and report of a run on InLoc."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2_hloc.benchmarks.comparison import Evaluation
from d2_hloc.benchmarks.inloc.data import InLocData, InLocError, short_name
from d2_hloc.benchmarks.inloc.dense_verification import DenseVerifier
from d2_hloc.benchmarks.inloc.lists import read_list
from d2_hloc.benchmarks.inloc.matches import MatchedCutouts
from d2_hloc.benchmarks.inloc.pose_files import (
    QueryPoses,
    RankedPose,
    combine,
    from_list,
    query_row,
    write_found,
)
from d2_hloc.benchmarks.inloc.poses import Setting, fitting_matches
from d2_hloc.benchmarks.inloc.scores import (
    PAPER,
    MethodResult,
    errors_of,
    method_cells,
    method_scores,
)
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.run_record import RunRecord
from d2_hloc.reports.drawing import draw_matches, open_or_blank
from d2_hloc.reports.localization import ends
from d2_hloc.reports.model import add_making, add_skipped
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.sfm.poses_file import read_poses

DRAWN = 6  # queries of a feature: those of fewest and of most inliers
HEIGHT = 480  # pixels of a picture
NOTE = (
    "Share of the queries, in per cent, that are placed within a distance at 10 degrees, and "
    "within 5 cm at 1 degree. Direct PE takes the best retrieved cutout, sparse PE the best of "
    "several after spatial verification, pv the one that dense verification prefers; pooled is one "
    "pose from all matches. The time of a query is that of matching and posing it, without "
    "extraction. Rows marked published are Table 2 of the D2-Net paper, on all 356 queries of "
    "InLoc; they compare with what is measured on those alone."
)


@dataclass(frozen=True, kw_only=True)
class InLocEvaluation(Evaluation):
    """A feature's finished run: the results of its methods, and what they were made with."""

    data: InLocData
    setting: Setting
    verifier: DenseVerifier
    results: Sequence[MethodResult]

    @property
    def skipped(self) -> dict[str, str]:
        """Reasons why images, points and pairs were not used, and queries have no pose."""
        queries = {
            f"{short_name(query.name)}, {result.method}": query.reason
            for result in self.results
            for query in result.found
            if query.reason
        }
        return self.setting.files.failures | queries


def write_method_files(evaluation: InLocEvaluation) -> None:
    """Write the poses of each method, in a folder of its own where there are several."""
    for result in evaluation.results:
        outputs = evaluation.outputs
        if len(evaluation.results) > 1:
            outputs = Outputs(outputs.folder / result.method)
        write_found(outputs, result.found)


def report_combined(paths: Sequence[Path], output: Path, truth: Path | None) -> None:
    """Write the poses of two ImgLists combined by Dense PV's score, and print their table.

    Raises:
        ValueError: if a list cannot be used, or the folder holds another run's poses.
    """
    found = combine(*(from_list(read_list(path)) for path in paths))
    record = RunRecord(output, {"combined": [str(path.resolve()) for path in paths]})
    record.write()  # a rerun after a kill knows what it finds
    write_found(record.outputs, found)
    errors = errors_of(found, read_poses(truth) if truth else None)
    name = " + ".join(str(path) for path in paths)
    result = MethodResult(method="combined", feature=name, refined=None, found=found, errors=errors)
    record.scores = {"combined": method_scores(result.row)}
    record.write()
    print_table([method_cells(result.row)])
    print(f"\n{record.outputs.poses}")


def inloc_report(evaluations: Sequence[InLocEvaluation]) -> Report:
    """Make the page: tables, pictures, what was skipped, how it was made."""
    rows = [*method_rows(evaluations), *map(method_cells, PAPER)]
    report = Report("InLoc", subtitle=str(evaluations[0].data.folder))
    report.headline(
        (f"{e.feature}, {m.method}: queries placed", f"{m.row.num_placed} of {len(m.found)}")
        for e in evaluations
        for m in e.results
    )
    report.table("Queries localized", rows, note=NOTE)
    for e in evaluations:
        last = e.results[-1]
        pictures = draw_posed_queries(e, last)
        if pictures:
            report.picture(f"Queries: {e.feature}, {last.method}", pictures, note=PICTURE_NOTE)
        for result in e.results:
            report.table(f"Queries: {e.feature}, {result.method}", error_rows(result))
    add_skipped(report, {e.feature: e.skipped for e in evaluations})
    add_making(report, {e.feature: e.record for e in evaluations})
    return report


PICTURE_NOTE = (
    "The query and its best cutout with the inliers of its pose, then the query and the scan as it "
    "is seen from there. The queries of fewest and of most inliers."
)


def method_rows(evaluations: Sequence[InLocEvaluation]) -> list[dict[str, Any]]:
    """Rows of all features and methods that were run."""
    return [method_cells(result.row) for e in evaluations for result in e.results]


def error_rows(result: MethodResult) -> list[dict[str, Any]]:
    """Rows of the queries, with their errors where the truth is known; the worst first."""
    rows = []
    for query in result.found:
        row = query_row(query)
        metres, degrees = result.errors.get(row["name"], (np.inf, np.inf))
        is_known = np.isfinite(metres)
        row |= {"error, cm": f"{100 * metres:.2f}" if is_known else None}
        rows.append(row | {"error, deg": f"{degrees:.3f}" if is_known else None})
    return sorted(rows, key=lambda row: -float(row["error, cm"] or "inf"))


def draw_posed_queries(
    evaluation: InLocEvaluation, result: MethodResult
) -> list[tuple[Image.Image, str]]:
    """Draw the queries of fewest and of most inliers, two pictures each."""
    placed = [(query, query.best) for query in result.found if query.best is not None]
    placed.sort(key=lambda found: found[1].num_inliers)
    pictures = []
    with evaluation.setting.files.open() as files:
        for query, pose in ends(placed, DRAWN):
            pictures.append(draw_inliers(evaluation, files, query, pose))
            pictures.append(draw_render(evaluation, query, pose))
    return pictures


def draw_inliers(
    evaluation: InLocEvaluation, files: MatchedCutouts, query: QueryPoses, pose: RankedPose
) -> tuple[Image.Image, str]:
    """Draw a query beside its best cutout; the matches that fit the pose in colour."""
    found = files.between(query.name, pose.cutout)
    inliers = fitting_matches(evaluation.setting, query.name, pose, found)
    folder = evaluation.data.folder
    image0, image1 = (open_or_blank(folder / name) for name in (query.name, found.cutout))
    names = " - ".join(map(short_name, (query.name, found.cutout)))
    caption = f"{names}: {inliers.sum()} of {len(inliers)} matches fit"
    return draw_matches(image0, image1, found.xy0, found.xy1, inliers), caption


def draw_render(
    evaluation: InLocEvaluation, query: QueryPoses, pose: RankedPose
) -> tuple[Image.Image, str]:
    """Draw a query beside the scan as it is seen from the query's pose."""
    photograph = open_or_blank(evaluation.data.folder / query.name)
    try:
        rendered, _ = evaluation.verifier.render(query.name, pose)
    except InLocError as error:
        return photograph, f"{short_name(query.name)}: cannot be rendered, {error}"
    values = (rendered.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    size = round(HEIGHT * photograph.width / photograph.height), HEIGHT
    canvas = Image.new("RGB", (2 * size[0], HEIGHT))
    for k, image in enumerate((photograph, Image.fromarray(values))):
        canvas.paste(image.resize(size, Image.Resampling.BILINEAR), (k * size[0], 0))
    return canvas, f"{short_name(query.name)}: photograph, and rendered from its pose"
