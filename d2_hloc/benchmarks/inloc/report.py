"""The end of a run on InLoc: tables, result files and report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2_hloc.benchmarks.inloc.data import InLoc, InLocError, short_name
from d2_hloc.benchmarks.inloc.dense_verification import Verifier
from d2_hloc.benchmarks.inloc.lists import read_list
from d2_hloc.benchmarks.inloc.matches import MatchedCutouts, open_matched
from d2_hloc.benchmarks.inloc.pose_files import (
    QueryPoses,
    combine,
    from_list,
    query_row,
    write_found,
)
from d2_hloc.benchmarks.inloc.poses import Setting, fits_pose
from d2_hloc.benchmarks.inloc.scores import (
    PAPER,
    Measured,
    errors_of,
    megabytes_an_image,
    scores_of,
    table_row,
)
from d2_hloc.files import features_h5
from d2_hloc.files.run_record import RunRecord
from d2_hloc.reports.drawing import draw_matches
from d2_hloc.reports.localization import ends
from d2_hloc.reports.model import add_making, add_skipped, open_or_blank
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


@dataclass(frozen=True)
class Evaluation:
    """A feature's finished run: what its methods found, and the folder of its files."""

    feature: str
    data: InLoc
    setting: Setting
    verifier: Verifier
    measured: Sequence[Measured]
    record: RunRecord
    folder: Path

    @property
    def skipped(self) -> dict[str, str]:
        """Whatever was not used, by name, and why."""
        files = self.setting.features, self.setting.points
        failed = {
            name: why for file in files for name, why in features_h5.read_failures(file).items()
        }
        failed |= features_h5.read_failures(self.setting.matches)
        queries = {
            f"{short_name(q.name)}, {m.method}": q.reason
            for m in self.measured
            for q in m.found
            if q.reason
        }
        return failed | queries


def measure(
    method: str,
    setting: Setting,
    found: Sequence[QueryPoses],
    record: RunRecord,
    truth: Path | None,
) -> Measured:
    """What a method found, with its errors and costs."""
    feature = record.configuration["extraction"]["feature"]
    spent = [query.seconds for query in found]
    matching = record.timings.get("match", 0.0) / max(1, len(found))
    return Measured(
        method=method,
        feature=feature,
        refined=setting.refine is not None,
        found=found,
        errors=errors_of(found, read_poses(truth) if truth else None),
        megabytes=megabytes_an_image(setting.features),
        seconds=matching + float(np.mean(spent)),
    )


def conclude(evaluation: Evaluation) -> Evaluation:
    """Write the result files, note counts and scores in run.json, and present the run."""
    for measured in evaluation.measured:
        write_found(method_folder(evaluation, measured.method), measured.found)
    record = evaluation.record
    record.counts = {
        "queries": len(evaluation.setting.ranked),
        "cutouts": len({c.cutout for found in evaluation.setting.ranked.values() for c in found}),
        "skipped": evaluation.skipped,
    }
    record.scores = {m.method: scores_of(m.row) for m in evaluation.measured}
    record.write()
    present([evaluation], evaluation.folder)
    return evaluation


def method_folder(evaluation: Evaluation, method: str) -> Path:
    """Where a method's poses are: a folder of its own where there are several."""
    return evaluation.folder if len(evaluation.measured) == 1 else evaluation.folder / method


def compare(evaluations: Sequence[Evaluation], record: RunRecord, output: Path) -> None:
    """Present several features beside each other, and note the scores of all in one record."""
    record.counts = {e.feature: e.record.counts for e in evaluations}
    record.scores = {e.feature: e.record.scores for e in evaluations}
    record.timings = {e.feature: round(sum(e.record.timings.values()), 2) for e in evaluations}
    record.write()
    present(evaluations, output)


def present_combined(paths: Sequence[Path], output: Path, truth: Path | None) -> None:
    """Write the poses of two ImgLists combined by Dense PV's score, and print their table.

    Raises:
        ValueError: if a list cannot be used, or the folder holds another run's poses.
    """
    found = combine(*(from_list(read_list(path)) for path in paths))
    record = RunRecord(output, {"combined": [str(path.resolve()) for path in paths]})
    write_found(output, found)
    errors = errors_of(found, read_poses(truth) if truth else None)
    name = " + ".join(str(path) for path in paths)
    row = Measured(method="combined", feature=name, refined=None, found=found, errors=errors).row
    record.scores = {"combined": scores_of(row)}
    record.write()
    print_table([table_row(row)])
    print(f"\n{output / 'poses.txt'}")


def present(evaluations: Sequence[Evaluation], output: Path) -> None:
    """Print the table, name what was skipped, and write OUT/report.html."""
    rows = [table_row(m.row) for e in evaluations for m in e.measured]
    make_report(evaluations, [*rows, *map(table_row, PAPER)]).write(output / "report.html")
    print_table(rows)
    for evaluation in evaluations:
        for name, reason in evaluation.skipped.items():
            print(f"skipped by {evaluation.feature}: {name}: {reason}")
    print(f"\n{output / 'report.html'}")


def make_report(evaluations: Sequence[Evaluation], rows: Sequence[Mapping[str, Any]]) -> Report:
    """The page: tables, pictures, what was skipped, how it was made."""
    report = Report("InLoc", subtitle=str(evaluations[0].data.folder))
    report.headline(
        (f"{e.feature}, {m.method}: queries placed", f"{m.row.num_placed} of {len(m.found)}")
        for e in evaluations
        for m in e.measured
    )
    report.table("Queries localized", rows, note=NOTE)
    for e in evaluations:
        last = e.measured[-1]
        pictures = draw_queries(e, last)
        if pictures:
            report.picture(f"Queries: {e.feature}, {last.method}", pictures, note=PICTURE_NOTE)
        for measured in e.measured:
            report.table(f"Queries: {e.feature}, {measured.method}", query_rows(measured))
    add_skipped(report, {e.feature: e.skipped for e in evaluations})
    add_making(report, {e.feature: e.record for e in evaluations})
    return report


PICTURE_NOTE = (
    "The query and its best cutout with the inliers of its pose, then the query and the scan as it "
    "is seen from there. The queries of fewest and of most inliers."
)


def query_rows(measured: Measured) -> list[dict[str, Any]]:
    """A line a query, with its errors where the truth is known; the worst first."""
    rows = []
    for query in measured.found:
        row = query_row(query)
        metres, degrees = measured.errors.get(row["name"], (None, None))
        is_known = metres is not None and np.isfinite(metres)
        row |= {"error, cm": f"{100 * metres:.2f}" if is_known else None}
        rows.append(row | {"error, deg": f"{degrees:.3f}" if is_known else None})
    return sorted(rows, key=lambda row: -float(row["error, cm"] or "inf"))


def draw_queries(evaluation: Evaluation, measured: Measured) -> list[tuple[Image.Image, str]]:
    """The queries of fewest and of most inliers, two pictures each."""
    placed = sorted((q for q in measured.found if q.best), key=lambda q: q.best.num_inliers)
    setting, pictures = evaluation.setting, []
    with open_matched(setting.features, setting.matches, setting.points) as files:
        for query in ends(placed, DRAWN):
            pictures.append(draw_inliers(evaluation, files, query))
            pictures.append(draw_render(evaluation, query))
    return pictures


def draw_inliers(
    evaluation: Evaluation, files: MatchedCutouts, query: QueryPoses
) -> tuple[Image.Image, str]:
    """A query beside its best cutout; the matches that fit the pose in colour."""
    found = files.between(query.name, query.best.cutout)
    inliers = fits_pose(evaluation.setting, query.name, query.best, found)
    folder = evaluation.data.folder
    images = (open_or_blank(folder / name) for name in (query.name, found.cutout))
    names = " - ".join(map(short_name, (query.name, found.cutout)))
    caption = f"{names}: {inliers.sum()} of {len(inliers)} matches fit"
    return draw_matches(*images, found.xy0, found.xy1, inliers), caption


def draw_render(evaluation: Evaluation, query: QueryPoses) -> tuple[Image.Image, str]:
    """A query beside what its pose sees of the scan."""
    photograph = open_or_blank(evaluation.data.folder / query.name)
    try:
        rendered, _ = evaluation.verifier.render(query.name, query.best)
    except InLocError as error:
        return photograph, f"{short_name(query.name)}: cannot be rendered, {error}"
    values = (rendered.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    size = round(HEIGHT * photograph.width / photograph.height), HEIGHT
    canvas = Image.new("RGB", (2 * size[0], HEIGHT))
    for k, image in enumerate((photograph, Image.fromarray(values))):
        canvas.paste(image.resize(size, Image.Resampling.BILINEAR), (k * size[0], 0))
    return canvas, f"{short_name(query.name)}: photograph, and rendered from its pose"
