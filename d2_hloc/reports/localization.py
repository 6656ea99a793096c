"""Report of a localization: scores against ground truth, tables, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from d2_hloc.core.pixels import from_colmap
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import img_from_cam
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.reports.charts import timings_figure
from d2_hloc.reports.drawing import beside, draw_matches, draw_seen_points, open_or_blank
from d2_hloc.reports.model import (
    add_failures,
    draw_model,
    failure_rows,
    is_alignable,
    score_rows,
)
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.sfm import pose_errors
from d2_hloc.sfm.correspondences import Observations, observations
from d2_hloc.sfm.localize import LocalizationRun
from d2_hloc.sfm.pnp import Localized
from d2_hloc.sfm.pose_errors import PoseError, summarize_poses
from d2_hloc.sfm.poses_file import read_poses

DRAWN_QUERIES = 4
QUERY_COLUMNS = ("query", "inliers", "of matches", "error, mm", "error, deg", "why not")


T = TypeVar("T")
Errors = Mapping[str, PoseError]  # by query; infinite where there is no pose
NO_ERRORS: Errors = {}


def report_localization(run: LocalizationRun, ground_truth: Path | None = None) -> None:
    """Score a localization, print its tables and write its report."""
    errors = score_queries(run, read_poses(ground_truth) if ground_truth else None)
    print_table(localization_rows(run, errors))
    print_queries(run.found, errors)
    report = Report("Localization", subtitle=str(run.queries))
    add_localization(report, run, errors)
    print(f"\n{report.write(run.outputs.report)}")


def score_queries(run: LocalizationRun, known: pose_errors.Poses | None) -> Errors:
    """Note the errors of the queries, and return them; none where they cannot be told.

    A model of given poses is in the truth's frame; any other is aligned with it by its own images.
    """
    if known is None:
        return {}
    frame = pose_errors.IDENTITY
    if not run.source.has_given_poses:
        model_poses = pose_errors.model_poses(run.model)
        if not is_alignable(model_poses, known):
            return {}
        frame = pose_errors.align(model_poses, known)
    poses = {r.name: r.cam_from_world for r in run.found if r.cam_from_world is not None}
    wanted = {r.name: known[r.name] for r in run.found if r.name in known}
    errors = pose_errors.pose_errors(poses, wanted, frame)
    run.record.scores["ground_truth"] = summarize_poses(errors).to_dict()
    placed = {name: error for name, error in errors.items() if np.isfinite(error.metres)}
    run.record.scores["query_errors"] = placed  # metres, degrees
    run.record.write()
    return errors


def localization_rows(run: LocalizationRun, errors: Errors = NO_ERRORS) -> list[tuple[str, Any]]:
    """Names and values of a localization's numbers."""
    localized = sum(r.cam_from_world is not None for r in run.found)
    return [
        ("localized queries", f"{localized} of {len(run.found) + len(run.features.failures)}"),
        *score_rows(summarize_poses(errors) if errors else None),
        *failure_rows(run.features.failures, run.matches.failures),
    ]


def print_queries(found: Sequence[Localized], errors: Errors = NO_ERRORS) -> None:
    """Print one line per query."""
    print_table(localized_query_rows(found, errors), QUERY_COLUMNS)


def localized_query_rows(
    found: Sequence[Localized], errors: Errors = NO_ERRORS
) -> list[tuple[str, int, int, str, str, str]]:
    """Name, inliers, matches, position and rotation error, and reason of a failure per query."""
    rows = []
    for r in found:
        metres, degrees = errors.get(r.name, PoseError(np.inf, np.inf))
        is_known = np.isfinite(metres)
        position, rotation = (f"{1000 * metres:.1f}", f"{degrees:.3f}") if is_known else ("-", "-")
        rows.append((r.name, r.num_inliers, r.num_matches, position, rotation, r.reason))
    return rows


def add_localization(report: Report, run: LocalizationRun, errors: Errors = NO_ERRORS) -> None:
    """Add a localization's sections to a report."""
    report.headline(localization_rows(run, errors)[:4])
    report.table("Queries", localized_query_rows(run.found, errors), columns=QUERY_COLUMNS)
    report.figure(
        "Queries in the model", draw_model(run.model, run.found), note="Queries stand out."
    )
    pictures = draw_localized(run)
    if pictures:
        report.picture("Queries and the images that they match best", pictures)
        note = "On the right the model's points as a camera at the found pose sees them."
        report.picture("Queries and the model from their poses", draw_from_poses(run), note=note)
    report.figure("Time of the localization", timings_figure(run.record.timings))
    add_failures(report, run.features.failures, run.matches.failures)


def drawn_queries(run: LocalizationRun) -> list[Localized]:
    """The queries of fewest and of most inliers, among those that have a pose."""
    placed = sorted((r for r in run.found if r.cam_from_world), key=lambda r: r.num_inliers)
    return ends(placed, DRAWN_QUERIES)


def draw_from_poses(run: LocalizationRun) -> list[tuple[Image.Image, str]]:
    """Pictures of queries, each beside the model's points as its camera sees them from its pose."""
    points = list(run.model.points3D.values())
    xyz = np.array([p.xyz for p in points]).reshape(-1, 3)
    rgb = np.array([p.color for p in points]).reshape(-1, 3)
    pictures = []
    for query in drawn_queries(run):
        camera, pose = run.cameras[query.name], query.cam_from_world
        if pose is None:
            continue
        in_camera = np.asarray(pose * xyz).reshape(-1, 3)
        places = from_colmap(img_from_cam(camera, in_camera))
        view = draw_seen_points((camera.width, camera.height), places, rgb, in_camera[:, 2])
        pictures.append((beside(open_or_blank(run.queries / query.name), view), query.name))
    return pictures


def draw_localized(run: LocalizationRun) -> list[tuple[Image.Image, str]]:
    """Pictures of the queries of fewest and of most inliers, each with its best model image."""
    seen = observations(run.model, run.source.features)
    with features_h5.open_h5(run.matches.path) as matches:
        return [draw_localized_query(run, r, seen, matches) for r in drawn_queries(run)]


def ends(items: Sequence[T], count: int) -> list[T]:
    """Items of both ends, half of `count` from each, or all where there are no more."""
    half = count // 2
    return list(items) if len(items) <= count else [*items[:half], *items[-half:]]


def draw_localized_query(
    run: LocalizationRun, query: Localized, seen: dict[str, Observations], matches: GuardedFile
) -> tuple[Image.Image, str]:
    """Picture of a query beside the image with most matches to points; inliers fit the pose."""
    best, pairs = "", np.empty((0, 2), dtype=int)
    # Not whatever the file holds: a query may have the name of a model's image, and is another.
    for name in (image for one, image in run.matches.pairs if one == query.name and image in seen):
        found = features_h5.matches_of(matches, query.name, name).pairs.numpy()
        found = found[seen[name].point_ids[found[:, 1]] >= 0]
        if len(found) >= len(pairs):
            best, pairs = name, found
    xy0 = features_h5.read_keypoints(run.features.path, query.name)
    xy1 = features_h5.read_keypoints(run.source.features, best)
    xy0, xy1, ids = xy0[pairs[:, 0]], xy1[pairs[:, 1]], seen[best].point_ids[pairs[:, 1]]
    inliers = near_projection(run, query, xy0, ids)
    images = open_or_blank(run.queries / query.name), open_or_blank(run.source.images / best)
    picture = draw_matches(*images, xy0, xy1, inliers)
    return picture, f"{query.name} - {best}: {inliers.sum()} inliers of {len(inliers)}"


def near_projection(
    run: LocalizationRun, query: Localized, xy: np.ndarray, ids: np.ndarray
) -> np.ndarray:
    """Mask (K,) of the matches whose points project near the query's keypoints (K, 2)."""
    camera = run.cameras[query.name]
    xyz = np.array([run.model.points3D[i].xyz for i in ids.tolist()]).reshape(-1, 3)
    if query.cam_from_world is None:
        return np.zeros(len(xy), dtype=bool)
    projected = from_colmap(img_from_cam(camera, query.cam_from_world * xyz))
    return np.linalg.norm(projected - xy, axis=1) <= run.max_error
