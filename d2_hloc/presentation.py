"""The end of a run: scores against ground truth, a table in the terminal, report.html."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from PIL import Image

from d2_hloc import evaluation, storage
from d2_hloc.charts import bar_figure, model_figure, timings_figure
from d2_hloc.colmap import open_database, pycolmap
from d2_hloc.drawing import draw_matches
from d2_hloc.images import ImageError, open_image
from d2_hloc.localization import Localized, Observations, observations, read_poses
from d2_hloc.pixels import from_colmap
from d2_hloc.query_runs import LocalizationRun
from d2_hloc.record import RunRecord
from d2_hloc.report import Report
from d2_hloc.runs import ModelRun

logger = logging.getLogger(__name__)

DRAWN_QUERIES = 4
MAX_POINTS = 50_000  # of a model that a report is made from

Row = tuple[str, Any]
T = TypeVar("T")


def present_model(run: ModelRun, ground_truth: Path | None = None) -> None:
    """Score, print and report a reconstruction."""
    score_model(run, ground_truth)
    print_table(model_rows(run.record))
    report = Report("Reconstruction", subtitle=str(run.images))
    add_model(report, run)
    report.write(run.output / "report.html")
    print(f"\n{run.output / 'report.html'}")


def present_localization(run: LocalizationRun, ground_truth: Path | None = None) -> None:
    """Score, print and report a localization."""
    errors = score_queries(run, read_poses(ground_truth) if ground_truth else None)
    print_table(localization_rows(run.record))
    print_queries(run.found, errors)
    report = Report("Localization", subtitle=str(run.queries))
    add_localization(report, run, errors)
    report.write(run.output / "report.html")
    print(f"\n{run.output / 'report.html'}")


def score_model(run: ModelRun, truth: Path | None) -> None:
    """Camera errors after alignment with the ground truth, into the record."""
    if truth is None:
        return
    poses = evaluation.model_poses(run.model)
    known = read_poses(truth)
    known = {n: known[n] for n in storage.image_names(run.output / "features.h5", known)}
    if not is_alignable(poses, known):
        return
    errors = evaluation.pose_errors(poses, known, evaluation.align(poses, known))
    run.record.scores["ground_truth"] = evaluation.summarize(errors)
    run.record.write()


def is_alignable(poses: evaluation.Poses, known: evaluation.Poses) -> bool:
    """Three cameras give the frame; fewer are said to be too few."""
    common = len(set(poses) & set(known))
    if common < 3:
        text = "the ground truth names %d images of the model; errors need 3, to be in its frame."
        logger.warning(text, common)
    return common >= 3


def score_queries(
    run: LocalizationRun,
    known: evaluation.Poses | None,
    thresholds: Sequence[tuple[float, float]] = evaluation.THRESHOLDS,
) -> dict[str, tuple[float, float]]:
    """Errors by query, (metres, degrees), into the record; empty without ground truth.

    A model of given poses is in the truth's frame; any other is aligned with it by its own images.
    """
    if known is None:
        return {}
    frame = evaluation.IDENTITY
    if not run.source.has_given_poses:
        model_poses = evaluation.model_poses(run.model)
        if not is_alignable(model_poses, known):
            return {}
        frame = evaluation.align(model_poses, known)
    poses = {r.name: r.cam_from_world for r in run.found if r.cam_from_world is not None}
    wanted = {r.name: known[r.name] for r in run.found if r.name in known}
    errors = evaluation.pose_errors(poses, wanted, frame)
    run.record.scores["ground_truth"] = evaluation.summarize(errors, thresholds)
    placed = {name: error for name, error in errors.items() if np.isfinite(error[0])}
    run.record.scores["query_errors"] = placed  # metres, degrees
    run.record.write()
    return errors


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


def localization_rows(record: RunRecord) -> list[Row]:
    """A localization's numbers."""
    counts = record.counts
    rows: list[Row] = [("localized queries", f"{counts['localized']} of {counts['queries']}")]
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


def print_table(rows: Iterable[Row]) -> None:
    """Two columns in the terminal."""
    print()
    for name, value in rows:
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        print(f"{name:32} {text:>14}")


def print_rows(rows: Sequence[Mapping[str, Any]], num_labels: int) -> None:
    """A table in the terminal; the first columns are labels, the others numbers."""
    texts = [list(rows[0])] + [["-" if v is None else str(v) for v in r.values()] for r in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    print()
    for line in texts:
        cells = [
            cell.ljust(width) if k < num_labels else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def print_queries(found: Sequence[Localized], errors: dict[str, tuple[float, float]]) -> None:
    """A line a query."""
    print(f"\n{'query':32} {'inliers':>8} {'of':>6} {'error, mm':>10} {'deg':>7}")
    for row in query_rows(found, errors):
        print(f"{row[0]:32} {row[1]:8} {row[2]:6} {row[3]:>10} {row[4]:>7}  {row[5]}")


def query_rows(
    found: Sequence[Localized], errors: dict[str, tuple[float, float]]
) -> list[tuple[str, int, int, str, str, str]]:
    """Name, inliers, matches, position and rotation error, reason of a failure."""
    rows = []
    for r in found:
        metres, degrees = errors.get(r.name, (np.inf, np.inf))
        is_known = np.isfinite(metres)
        position, rotation = (f"{1000 * metres:.1f}", f"{degrees:.3f}") if is_known else ("-", "-")
        rows.append((r.name, r.num_inliers, r.num_matches, position, rotation, r.reason))
    return rows


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
    names = storage.image_names(run.output / "features.h5")
    with storage.open_h5(run.output / "features.h5") as file:
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
    poses = evaluation.model_poses(model)
    placed = {r.name: r.cam_from_world for r in queries if r.cam_from_world is not None}
    named = [*poses.items(), *((f"query {n}", p) for n, p in placed.items())]
    return model_figure(
        np.array([p.xyz for p in points]).reshape(-1, 3),
        np.array([p.color for p in points], dtype=np.uint8).reshape(-1, 3),
        np.array([evaluation.centre(p) for _, p in named]).reshape(-1, 3),
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
        storage.read_keypoints(output / "features.h5", name)[index[:, k]]
        for k, name in enumerate(names)
    ]
    return draw_matches(open_or_blank(images / names[0]), open_or_blank(images / names[1]), *xy)


def open_or_blank(path: Path) -> Image.Image:
    """The photograph, or grey where it was moved away since: a report is drawn all the same."""
    try:
        return open_image(path)
    except ImageError:
        return Image.new("RGB", (640, 480), (128, 128, 128))


def add_localization(
    report: Report, run: LocalizationRun, errors: dict[str, tuple[float, float]]
) -> None:
    """A localization's sections of a report."""
    report.headline(localization_rows(run.record)[:4])
    columns = ("query", "inliers", "of matches", "error, mm", "error, deg", "why not")
    report.table("Queries", query_rows(run.found, errors), columns=columns)
    report.figure(
        "Queries in the model", draw_model(run.model, run.found), note="Queries stand out."
    )
    pictures = draw_queries(run)
    if pictures:
        report.picture("Queries and the images that they match best", pictures)
    report.figure("Time of the localization", timings_figure(run.record.timings))
    add_failures(report, run.record.counts)


def draw_queries(run: LocalizationRun) -> list[tuple[Image.Image, str]]:
    """The queries of fewest and of most inliers, each with its best image of the model."""
    placed = sorted((r for r in run.found if r.cam_from_world), key=lambda r: r.num_inliers)
    seen = observations(run.model, run.source.features)
    with storage.open_h5(run.output / "matches.h5") as matches:
        return [draw_query(run, r, seen, matches) for r in ends(placed, DRAWN_QUERIES)]


def ends(items: Sequence[T], count: int) -> list[T]:
    """Half of `count` from the front and half from the back, or all where there are no more."""
    half = count // 2
    return list(items) if len(items) <= count else [*items[:half], *items[-half:]]


def draw_query(
    run: LocalizationRun, query: Localized, seen: dict[str, Observations], matches: h5py.File
) -> tuple[Image.Image, str]:
    """A query beside the image with most matches to points; inliers fit the pose."""
    best, pairs = "", np.empty((0, 2), dtype=int)
    for name in seen:
        if not storage.holds_pair(matches, query.name, name):
            continue
        found = storage.matches_of(matches, query.name, name).pairs.numpy()
        found = found[seen[name].point_ids[found[:, 1]] >= 0]
        if len(found) >= len(pairs):
            best, pairs = name, found
    xy0 = storage.read_keypoints(run.output / "features.h5", query.name)
    xy1 = storage.read_keypoints(run.source.features, best)
    xy0, xy1, ids = xy0[pairs[:, 0]], xy1[pairs[:, 1]], seen[best].point_ids[pairs[:, 1]]
    inliers = fits_pose(run, query, xy0, ids)
    images = open_or_blank(run.queries / query.name), open_or_blank(run.source.images / best)
    picture = draw_matches(*images, xy0, xy1, inliers)
    return picture, f"{query.name} - {best}: {inliers.sum()} inliers of {len(inliers)}"


def fits_pose(
    run: LocalizationRun, query: Localized, xy: np.ndarray, ids: np.ndarray
) -> np.ndarray:
    """Mask of the matches whose point projects near the query's keypoint."""
    camera = run.cameras[query.name]
    xyz = np.array([run.model.points3D[i].xyz for i in ids.tolist()]).reshape(-1, 3)
    projected = from_colmap(camera.img_from_cam(query.cam_from_world * xyz))
    return np.linalg.norm(projected - xy, axis=1) <= run.max_error
