"""The end of a run: scores against ground truth, a table in the terminal, report.html."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from d2_hloc.core.images import ImageError, open_image
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import open_database, pycolmap
from d2_hloc.files.run_record import RunRecord
from d2_hloc.reports.charts import bar_figure, timings_figure
from d2_hloc.reports.drawing import draw_matches
from d2_hloc.reports.model_figure import model_figure
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.reports.values import Row
from d2_hloc.sfm import pose_errors
from d2_hloc.sfm.pnp import Localized
from d2_hloc.sfm.poses_file import read_poses
from d2_hloc.sfm.reconstruct import ModelRun

logger = logging.getLogger(__name__)


MAX_POINTS = 50_000  # of a model that a report is made from


T = TypeVar("T")


def present_model(run: ModelRun, ground_truth: Path | None = None) -> None:
    """Score, print and report a reconstruction."""
    score_model(run, ground_truth)
    print_table(model_rows(run.record))
    report = Report("Reconstruction", subtitle=str(run.images))
    add_model(report, run)
    report.write(run.output / "report.html")
    print(f"\n{run.output / 'report.html'}")


def score_model(run: ModelRun, truth: Path | None) -> None:
    """Camera errors after alignment with the ground truth, into the record."""
    if truth is None:
        return
    poses = pose_errors.model_poses(run.model)
    known = read_poses(truth)
    known = {n: known[n] for n in features_h5.image_names(run.output / "features.h5", known)}
    if not is_alignable(poses, known):
        return
    errors = pose_errors.pose_errors(poses, known, pose_errors.align(poses, known))
    run.record.scores["ground_truth"] = pose_errors.summarize_poses(errors).to_dict()
    run.record.write()


def is_alignable(poses: pose_errors.Poses, known: pose_errors.Poses) -> bool:
    """Three cameras give the frame; fewer are said to be too few."""
    common = len(set(poses) & set(known))
    if common < 3:
        text = "the ground truth names %d images of the model; errors need 3, to be in its frame."
        logger.warning(text, common)
    return common >= 3


def model_rows(record: RunRecord) -> list[Row]:
    """A reconstruction's numbers."""
    scores, counts = record.scores, record.counts
    rows: list[Row] = [
        ("registered images", f"{scores['registered_images']} of {counts['images']}"),
        ("sparse points", scores["points"]),
        ("observations", scores["observations"]),
        ("mean track length", scores["mean_track_length"]),
        ("observations an image", scores["observations_per_image"]),
        ("mean reprojection error, px", scores["mean_reprojection_error"]),
        ("matched pairs", counts["pairs"]),
        ("verified pairs", counts["inlier_pairs"]),
        ("verified matches", counts["inlier_matches"]),
    ]
    rows += [
        (f"keypoints {outcome} in refinement", number)
        for outcome, number in counts.get("refined_keypoints", {}).items()
    ]
    return rows + truth_rows(record) + failure_rows(counts)


def truth_rows(record: RunRecord) -> list[Row]:
    """Errors against ground truth, where there is one."""
    truth = record.scores.get("ground_truth", {})
    rows: list[Row] = []
    for kind in ("mean", "median"):
        if f"{kind}_position_error_m" in truth:
            rows.append(
                (f"{kind} camera-centre error, mm", 1000 * truth[f"{kind}_position_error_m"])
            )
            rows.append((f"{kind} rotation error, deg", truth[f"{kind}_rotation_error_deg"]))
    return rows


def failure_rows(counts: dict[str, Any]) -> list[Row]:
    """How many images and pairs were skipped, if any."""
    kinds = {"failed_images": "images that could not be used", "failed_pairs": "pairs skipped"}
    return [(text, len(counts[key])) for key, text in kinds.items() if counts.get(key)]


def add_model(report: Report, run: ModelRun) -> None:
    """A reconstruction's sections of a report."""
    rows = model_rows(run.record)
    report.headline([(name, value) for name, value in rows[:2] + rows[3:4] + rows[5:6]])
    report.figure("The model", draw_model(run.model), note="Drag to turn, scroll to come nearer.")
    report.table("Numbers", rows, columns=("", "value"))
    pictures = []
    for names, index in verified_pairs(run.output / "database.db"):
        caption = f"{names[0]} - {names[1]}: {len(index)} verified"
        pictures.append((draw_pair(run.images, run.output, names, index), caption))
    if pictures:
        report.picture("Verified matches: most, median, fewest", pictures)
    names = features_h5.image_names(run.output / "features.h5")
    with features_h5.open_h5(run.output / "features.h5") as file:
        counts = [len(file[name]["keypoints"]) for name in names]
    report.figure("Features an image", bar_figure(names, counts, "features"))
    report.figure("Time", timings_figure(run.record.timings))
    add_failures(report, run.record.counts)


def add_failures(report: Report, counts: dict[str, Any]) -> None:
    """What was skipped, by name."""
    skipped = {**counts.get("failed_images", {}), **counts.get("failed_pairs", {})}
    if skipped:
        report.table("Skipped", list(skipped.items()), columns=("what", "why"))


def add_skipped(report: Report, skipped: Mapping[str, Mapping[str, str]]) -> None:
    """What each feature left out and why, if anything."""
    rows = [(feature, *item) for feature, found in skipped.items() for item in found.items()]
    if rows:
        report.table("Skipped", rows, columns=("feature", "what", "why"))


def add_making(report: Report, records: Mapping[str, RunRecord]) -> None:
    """How long each feature took, and the options it was run with."""
    for feature, record in records.items():
        report.figure(f"Time: {feature}", timings_figure(record.timings))
    configuration = {feature: record.configuration for feature, record in records.items()}
    report.listing("Configuration", json.dumps(configuration, indent=1))


def draw_model(model: pycolmap.Reconstruction, queries: Sequence[Localized] = ()) -> Any:
    """The model's points and cameras, and localized queries in another colour."""
    points = [model.points3D[i] for i in sorted(model.point3D_ids())]
    points = points[:: max(1, len(points) // MAX_POINTS)]
    poses = pose_errors.model_poses(model)
    placed = {r.name: r.cam_from_world for r in queries if r.cam_from_world is not None}
    named = [*poses.items(), *((f"query {n}", p) for n, p in placed.items())]
    return model_figure(
        np.array([p.xyz for p in points]).reshape(-1, 3),
        np.array([p.color for p in points], dtype=np.uint8).reshape(-1, 3),
        np.array([pose_errors.centre(p) for _, p in named]).reshape(-1, 3),
        np.array([p.rotation.matrix() for _, p in named]).reshape(-1, 3, 3),
        [name for name, _ in named],
        {f"query {name}" for name in placed},
    )


def verified_pairs(database: Path) -> list[tuple[tuple[str, str], np.ndarray]]:
    """The pairs of most, median and fewest verified matches, with the matches (K, 2)."""
    with open_database(database) as db:
        names = {i.image_id: i.name for i in db.read_all_images()}
        pair_ids, inliers = db.read_two_view_geometry_num_inliers()
        counts = sorted(((n, i) for n, i in zip(inliers, pair_ids, strict=True) if n), reverse=True)
        places = sorted({0, len(counts) // 2, len(counts) - 1} & set(range(len(counts))))
        chosen = [pycolmap.pair_id_to_image_pair(counts[k][1]) for k in places]
        return [
            ((names[i], names[j]), db.read_two_view_geometry(i, j).inlier_matches)
            for i, j in chosen
        ]


def draw_pair(images: Path, output: Path, names: tuple[str, str], index: np.ndarray) -> Image.Image:
    """Two images of a model and lines between their matches."""
    xy = [
        features_h5.read_keypoints(output / "features.h5", name)[index[:, k]]
        for k, name in enumerate(names)
    ]
    return draw_matches(open_or_blank(images / names[0]), open_or_blank(images / names[1]), *xy)


def open_or_blank(path: Path) -> Image.Image:
    """The photograph, or grey where it was moved away since: a report is drawn all the same."""
    try:
        return open_image(path)
    except ImageError:
        return Image.new("RGB", (640, 480), (128, 128, 128))
