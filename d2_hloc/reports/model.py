"""Report of a reconstruction: scores against ground truth, a table, charts and pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from d2_hloc.files import features_h5
from d2_hloc.files.colmap import open_database, pycolmap, verified_pairs
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching.pairs import Pair
from d2_hloc.reports.charts import bar_figure, histogram_figure, matrix_figure, timings_figure
from d2_hloc.reports.drawing import draw_matches, open_or_blank, spread
from d2_hloc.reports.keypoints import LEGEND, draw_fates
from d2_hloc.reports.model_figure import model_figure
from d2_hloc.reports.page import Report
from d2_hloc.reports.pair_graph import link_matrix
from d2_hloc.reports.residuals import image_residuals, residual_figure, residual_map
from d2_hloc.reports.terminal import print_table
from d2_hloc.sfm import pose_errors
from d2_hloc.sfm.adjustment.outliers import reprojection_errors
from d2_hloc.sfm.database import verified_links
from d2_hloc.sfm.pnp import Localized
from d2_hloc.sfm.pose_errors import PoseSummary, model_poses, summarize_poses
from d2_hloc.sfm.poses_file import read_poses
from d2_hloc.sfm.reconstruct import ModelRun

logger = logging.getLogger(__name__)

MAX_POINTS = 50_000  # of a model that a report is made from
MAX_NAMED = 20  # images without a pose, on the terminal
NOT_SHOWN = "images without a pose or points"
MAX_MATRIX = 300  # images; their squares are still two pixels wide
MAX_IMAGES = 24  # whose keypoints are drawn


def report_model(run: ModelRun, ground_truth: Path | None = None) -> None:
    """Score a reconstruction, print its table and write its report."""
    scores = score_model(run, ground_truth)
    print_table(model_rows(run, scores))
    print_left_out(run)
    report = Report("Reconstruction", subtitle=str(run.images))
    add_model(report, run, scores)
    print(f"\n{report.write(run.outputs.report)}")


def score_model(run: ModelRun, truth: Path | None) -> PoseSummary | None:
    """Note the camera errors after alignment with the ground truth, if they can be told."""
    if truth is None:
        return None
    poses = pose_errors.model_poses(run.model)
    known = read_poses(truth)
    known = {name: known[name] for name in run.matched.features.names if name in known}
    if not is_alignable(poses, known):
        return None
    errors = pose_errors.pose_errors(poses, known, pose_errors.align(poses, known))
    scores = summarize_poses(errors)
    run.record.scores["ground_truth"] = scores.to_dict()
    run.record.write()
    return scores


def is_alignable(poses: pose_errors.Poses, known: pose_errors.Poses) -> bool:
    """Whether the cameras that are in both give the frame; warn where they do not."""
    common = len(set(poses) & set(known))
    if common < 3:
        text = "the ground truth names %d images of the model; errors need 3, to be in its frame."
        logger.warning(text, common)
        return False
    try:
        pose_errors.align(poses, known)
    except ValueError as error:
        logger.warning("the model cannot be aligned to the ground truth; no errors. %s", error)
        return False
    return True


def model_rows(run: ModelRun, scores: PoseSummary | None = None) -> list[tuple[str, Any]]:
    """Names and values of a reconstruction's numbers."""
    found, database, matched = run.statistics, run.database, run.matched
    refined = database.refined.outcomes if database.refined is not None else {}
    return [
        ("registered images", registered_text(run)),
        ("sparse points", found.points),
        ("observations", found.observations),
        ("mean track length", found.mean_track_length),
        ("median track length", found.median_track_length),
        ("observations an image", found.observations_per_image),
        ("mean reprojection error, px", found.mean_reprojection_error),
        ("median reprojection error, px", found.median_reprojection_error),
        ("matched pairs", len(matched.pairs)),
        ("verified pairs", database.inlier_pairs),
        ("verified matches", database.inlier_matches),
        *contradicted_rows(matched.record.counts.get("contradicted_pairs", [])),
        *((f"keypoints {outcome} in refinement", number) for outcome, number in refined.items()),
        *score_rows(scores),
        *failure_rows(matched.features.failures, matched.matches.failures),
    ]


def contradicted_rows(pairs: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """The number of pairs that triplets of images contradict, and which they are, if any."""
    if not pairs:
        return []
    named = ", ".join(" - ".join(p["images"]) for p in pairs)
    return [("pairs that all triplets contradict", f"{len(pairs)}: {named}")]


def registered_text(run: ModelRun) -> str:
    """Images in the model, of those that have features."""
    return f"{run.statistics.registered_images} of {len(run.matched.features.names)}"


def score_rows(scores: PoseSummary | None) -> list[tuple[str, Any]]:
    """Names and values of the errors against ground truth, where there is one."""
    rows: list[tuple[str, Any]] = []
    if scores is not None:
        for kind, error in (("mean", scores.mean), ("median", scores.median)):
            if error is not None:
                rows.append((f"{kind} camera-centre error, mm", 1000 * error.metres))
                rows.append((f"{kind} rotation error, deg", error.degrees))
    return rows


def failure_rows(images: Mapping[str, str], pairs: Mapping[Pair, str]) -> list[tuple[str, Any]]:
    """Numbers of images and pairs that were skipped, if any."""
    skipped = {"images that could not be used": len(images), "pairs skipped": len(pairs)}
    return [(name, count) for name, count in skipped.items() if count]


def add_model(report: Report, run: ModelRun, scores: PoseSummary | None = None) -> None:
    """Add a reconstruction's sections to a report."""
    found, features = run.statistics, run.matched.features
    report.headline(
        [
            ("registered images", registered_text(run)),
            ("sparse points", found.points),
            ("mean track length", found.mean_track_length),
            ("mean reprojection error, px", found.mean_reprojection_error),
            ("median reprojection error, px", found.median_reprojection_error),
        ]
    )
    report.figure("The model", draw_model(run.model), note="Drag to turn, scroll to come nearer.")
    report.table("Numbers", model_rows(run, scores), columns=("", "value"))
    add_unplaced(report, run)
    add_errors(report, run.model)
    pictures = []
    for names, index in extreme_pairs(run.database.path):
        caption = f"{names[0]} - {names[1]}: {len(index)} verified"
        pictures.append((draw_verified_pair(run, names, index), caption))
    if pictures:
        report.picture("Verified matches: most, median, fewest", pictures)
    add_pair_matrix(report, run)
    add_keypoints(report, run)
    with features_h5.open_h5(features.path) as file:
        counts = [len(file[name]["keypoints"]) for name in features.names]
    report.figure("Features an image", bar_figure(features.names, counts, "features"))
    report.figure("Time", timings_figure(run.record.timings))
    add_failures(report, features.failures, run.matched.matches.failures)


def print_left_out(run: ModelRun) -> None:
    """Name the images that the model does not show, with the reason, and the other models."""
    rows = [(image.name, image.reason) for image in run.unplaced]
    if rows:
        print_table(rows[:MAX_NAMED], columns=(NOT_SHOWN, "why"))
    if len(rows) > MAX_NAMED:
        print(f"and {len(rows) - MAX_NAMED} more, in {run.record.path}")
    for folder, model in run.others.items():
        print(f"\n{folder}: another model, of {model.num_reg_images()} images, in its own frame")


def add_unplaced(report: Report, run: ModelRun) -> None:
    """Name the images that the model does not show in a report, and why, and the other models."""
    columns = "image", "keypoints", "pairs", "verified pairs", "verified matches", "why not"
    rows = [astuple(image) for image in run.unplaced]
    if rows:
        report.table(NOT_SHOWN.capitalize(), rows, columns=columns)
    others = [
        (str(f), m.num_reg_images(), m.num_points3D(), ", ".join(sorted(model_poses(m))))
        for f, m in run.others.items()
    ]
    if others:
        columns = "folder", "registered images", "sparse points", "images"
        report.table("Other models, each in its own frame", others, columns=columns)


def add_keypoints(report: Report, run: ModelRun) -> None:
    """Add pictures of the images to a report, keypoints coloured by what became of them."""
    names = run.matched.features.names
    shown = [names[i] for i in spread(len(names), MAX_IMAGES)]
    more = f" {len(shown)} of the {len(names)} images are shown." if len(shown) < len(names) else ""
    report.picture("What became of the keypoints", draw_fates(run, shown), note=LEGEND + more)


def add_pair_matrix(report: Report, run: ModelRun) -> None:
    """Add the numbers of verified matches of all pairs to a report, as a matrix."""
    names = run.matched.features.names
    shown = [names[i] for i in spread(len(names), MAX_MATRIX)]
    note = "The pointer shows which images a square is of, and their verified matches."
    if len(shown) < len(names):
        note += f" {len(shown)} of the {len(names)} images are shown."
    values = link_matrix(verified_links(run.database.path), shown)
    report.figure("Pairs", matrix_figure(shown, values, "verified matches"), note=note)


def add_errors(report: Report, model: pycolmap.Reconstruction) -> None:
    """Add the distribution of a model's reprojection errors to a report."""
    errors = reprojection_errors(model)
    if len(errors):
        note = (
            f"Of {len(errors):,} observations, half are within {np.median(errors):.3g} px. "
            "The last bar holds all larger errors as well."
        )
        figure = histogram_figure(errors, "reprojection error, px")
        report.figure("Reprojection errors", figure, note=note)
        add_residual_map(report, model)


def add_residual_map(report: Report, model: pycolmap.Reconstruction) -> None:
    """Add a model's reprojection errors over the image plane to a report."""
    found = image_residuals(model)
    if found is None:
        return
    figure, longest = residual_figure(residual_map(found), found.size)
    note = (
        f"Where in the image they are, of {found.images} images of {found.size[0]} x "
        f"{found.size[1]} pixels. Strokes lead from where points should be to where keypoints are, "
        f"on average; the longest stands for {longest:.2g} px. A pattern, such as strokes that all "
        "lead outwards, hints at a distortion that the camera model does not have."
    )
    report.figure("Reprojection errors", figure, note=note)


def add_failures(report: Report, images: Mapping[str, str], pairs: Mapping[Pair, str]) -> None:
    """Name the images and pairs that were skipped in a report, if any."""
    skipped = [*images.items(), *((" ".join(pair), why) for pair, why in pairs.items())]
    if skipped:
        report.table("Skipped", skipped, columns=("what", "why"))


def add_skipped(report: Report, skipped: Mapping[str, Mapping[str, str]]) -> None:
    """Name in a report whatever each feature left out, and why, if anything."""
    rows = [(feature, *item) for feature, found in skipped.items() for item in found.items()]
    if rows:
        report.table("Skipped", rows, columns=("feature", "what", "why"))


def add_making(report: Report, records: Mapping[str, RunRecord]) -> None:
    """Add to a report how long each feature took, and the options it was run with."""
    for feature, record in records.items():
        report.figure(f"Time: {feature}", timings_figure(record.timings))
    configuration = {feature: record.configuration for feature, record in records.items()}
    report.listing("Configuration", json.dumps(configuration, indent=1))


def draw_model(model: pycolmap.Reconstruction, queries: Sequence[Localized] = ()) -> go.Figure:
    """Figure of the model's points and cameras, and of localized queries in another colour."""
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


def extreme_pairs(database: Path) -> list[tuple[Pair, np.ndarray]]:
    """The pairs of most, median and fewest verified matches, with the matches (K, 2)."""
    with open_database(database) as db:
        names = {i.image_id: i.name for i in db.read_all_images()}
        counts = sorted(((n, i, j) for i, j, n in verified_pairs(db)), reverse=True)
        places = sorted({0, len(counts) // 2, len(counts) - 1} & set(range(len(counts))))
        return [
            ((names[i], names[j]), db.read_two_view_geometry(i, j).inlier_matches)
            for _, i, j in (counts[k] for k in places)
        ]


def draw_verified_pair(run: ModelRun, names: Pair, index: np.ndarray) -> Image.Image:
    """Picture of two images of a model with lines between their verified matches (K, 2)."""
    features = run.matched.features.path
    xy0, xy1 = (features_h5.read_keypoints(features, n)[index[:, k]] for k, n in enumerate(names))
    image0, image1 = (open_or_blank(run.images / name) for name in names)
    return draw_matches(image0, image1, xy0, xy1)
