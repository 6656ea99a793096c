"""Several runs side by side: their numbers, times, and models in one view."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2_hloc.core.text import read_json_file
from d2_hloc.files.colmap import is_model, pycolmap, read_model
from d2_hloc.files.outputs import Outputs
from d2_hloc.reports.model_figure import model_figure
from d2_hloc.reports.page import Report
from d2_hloc.sfm.pose_errors import IDENTITY, Alignment, align, model_poses

logger = logging.getLogger(__name__)

COLOURS = ("#3b8bd0", "#e0651b", "#1f9e77", "#c2569b", "#b8860b", "#7a6fd0")
MAX_POINTS = 20_000  # of all models


def compare_runs(folders: Sequence[Path], page: Path) -> Path:
    """Write a page that shows runs, each an output folder, side by side.

    Raises:
        ValueError: if a folder is not the output of a run.
    """
    names = run_names(folders)
    records = {n: read_record(folder) for n, folder in zip(names, folders, strict=True)}
    report = Report("Runs compared", subtitle=", ".join(names))
    for heading, part in (("Scores", "scores"), ("Counts", "counts"), ("Time, s", "timings")):
        rows = comparison_rows({name: record[part] for name, record in records.items()})
        if rows:
            report.table(heading, rows, columns=("", *names))
    sparse = {n: Outputs(folder).sparse for n, folder in zip(names, folders, strict=True)}
    models = {name: read_model(path) for name, path in sparse.items() if is_model(path)}
    if models:
        add_models(report, models)
    different = options_that_differ({n: flat(r["configuration"]) for n, r in records.items()})
    if different:
        report.table("Options that differ", different, columns=("", *names))
    return report.write(page)


def run_names(folders: Sequence[Path]) -> list[str]:
    """Names of the runs: of their folders, or the whole paths where those are equal.

    Raises:
        ValueError: if a folder is there twice.
    """
    whole = [folder.resolve() for folder in folders]
    for folder in folders:
        if whole.count(folder.resolve()) > 1:
            raise ValueError(f"{folder}: is named twice; name two different runs.")
    short = [folder.name for folder in whole]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run, of an output folder.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    path = Outputs(folder).run_record
    try:
        found = read_json_file(path)
        return {k: dict(found[k]) for k in ("configuration", "counts", "scores", "timings")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is not the record of a run; name the OUT of one.") from error


def flat(values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Values of nested dictionaries by dotted place."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        below = isinstance(value, Mapping)
        found |= flat(value, f"{at}{key}.") if below else {f"{at}{key}": value}
    return found


def comparison_rows(values: Mapping[str, Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """A row for each number, a column for each run; empty where a run has it not."""
    numbers = {run: flat(found) for run, found in values.items()}
    names = dict.fromkeys(name for found in numbers.values() for name in found)
    rows = [(name.replace("_", " "), *(f.get(name) for f in numbers.values())) for name in names]
    return [r for r in rows if all(v is None or isinstance(v, int | float) for v in r[1:])]


def options_that_differ(values: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of the options that are not the same in all runs."""
    names = dict.fromkeys(name for found in values.values() for name in found)
    rows = [(name, *(json.dumps(f.get(name)) for f in values.values())) for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def add_models(report: Report, models: Mapping[str, pycolmap.Reconstruction]) -> None:
    """Add models to a report in one view, in the frame of the first, each in a colour."""
    points, colours, cameras = [], [], []
    reference = next(iter(models.values()))
    for k, (name, model) in enumerate(models.items()):
        colour = tuple(int(COLOURS[k % len(COLOURS)][i : i + 2], 16) for i in (1, 3, 5))
        frame = frame_of(name, model, reference)
        if frame is None:
            continue
        ids = sorted(model.point3D_ids())[
            :: max(1, model.num_points3D() * len(models) // MAX_POINTS)
        ]
        xyz = np.array([model.points3D[i].xyz for i in ids]).reshape(-1, 3)
        points.append(frame.apply(xyz))
        colours.append(np.tile(np.array(colour, dtype=np.uint8), (len(xyz), 1)))
        for image, pose in model_poses(model).items():
            cameras.append((f"{name}: {image}", frame.centre(pose), frame.camera_rotation(pose)))
    figure = model_figure(
        np.concatenate(points),
        np.concatenate(colours),
        np.array([c[1] for c in cameras]).reshape(-1, 3),
        np.array([c[2] for c in cameras]).reshape(-1, 3, 3),
        [c[0] for c in cameras],
        {c[0] for c in cameras if not c[0].startswith(f"{next(iter(models))}: ")},
    )
    words = ("blue", "orange", "green", "pink", "ochre", "violet")
    legend = ", ".join(f"{n} {words[k % len(words)]}" for k, n in enumerate(models))
    report.figure("The models", figure, note=f"Points: {legend}. All are aligned to the first.")


def frame_of(
    name: str, model: pycolmap.Reconstruction, reference: pycolmap.Reconstruction
) -> Alignment | None:
    """The frame that brings a model to another one's, by the cameras of common images, or None."""
    if model is reference:
        return IDENTITY
    try:
        return align(model_poses(model), model_poses(reference))
    except ValueError as error:
        logger.warning("%s is left out of the view: %s", name, error)
        return None
