"""A model readjusted: its points found anew and adjusted with a robust loss, bounds growing narrow.

A mapper that begins with wrong focal lengths drops the matches that would tell so, and ends in a
model that is bent a little and agrees with all that it kept. So points are triangulated anew, from
all verified matches, within bounds so wide that these come back; a loss that hardly counts what is
far off lets the majority decide; and the bounds close round by round.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from d2_hloc.files.atomic import empty_folder
from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.adjustment.outliers import adjust, adjust_without_outliers, drop_absurd

MAX_ANGLE = 6.0  # degrees, between a ray and the point that it is to see, while points are found


@dataclass(frozen=True, kw_only=True)
class ReadjustmentRound:
    """Bound of the errors with which points are found, and scale of the loss; pixels."""

    max_error: float
    loss_scale: float


@dataclass(frozen=True, kw_only=True)
class ReadjustmentRule:
    """Rounds, and the outlier factors beyond which observations leave in the end."""

    rounds: tuple[ReadjustmentRound, ...]
    factors: float = 1.0


WIDE = (
    *[ReadjustmentRound(max_error=16.0, loss_scale=4.0)] * 2,
    *[ReadjustmentRound(max_error=8.0, loss_scale=2.0)] * 2,
)
NARROW = ReadjustmentRound(max_error=4.0, loss_scale=1.0)
LAST = ReadjustmentRound(max_error=2.0, loss_scale=0.5)
# Errors of thousands of cells have a long tail, and tracks are cut where they leave.
LAST_OF_CELLS = ReadjustmentRound(max_error=4.0, loss_scale=0.5)

RULE = ReadjustmentRule(rounds=(*WIDE, NARROW, NARROW, LAST))
RULE_OF_CELLS = ReadjustmentRule(rounds=(*WIDE, NARROW, NARROW, LAST_OF_CELLS), factors=2.0)
# Nothing that a readjusted model led to is far off.
RULE_OF_COVERED = ReadjustmentRule(rounds=(NARROW, LAST_OF_CELLS), factors=2.0)


@dataclass(frozen=True, kw_only=True)
class ReadjustmentTask:
    """A verified database with its images, and what stays as it is in its models."""

    database: Path
    images: Path
    work: Path  # an empty folder
    triangulation: pycolmap.IncrementalPipelineOptions
    constant_cameras: Set[int]
    outlier_factor: float | None
    num_threads: int
    rule: ReadjustmentRule = RULE
    deviations: Mapping[str, np.ndarray] | None = None  # of keypoints by image, pixels


def readjust(model: pycolmap.Reconstruction, task: ReadjustmentTask) -> pycolmap.Reconstruction:
    """Find the points anew and adjust, round by round; distortions come last.

    Then observations beyond `outlier_factor` median errors, times the rule's, leave.
    """
    threads, constant = task.num_threads, task.constant_cameras
    for bound in tqdm(task.rule.rounds, desc="readjust", unit="round"):
        model = _triangulate(model, task, bound.max_error)
        scale = bound.loss_scale
        adjust(model, constant, threads, loss_scale=scale, refine_distortion=False)
        drop_absurd(model)
    adjust(model, constant, threads, loss_scale=task.rule.rounds[-1].loss_scale)
    drop_absurd(model)
    if task.outlier_factor is not None:
        factor = task.outlier_factor * task.rule.factors
        adjust_without_outliers(model, factor, constant, threads, task.deviations)
    model.extract_colors_for_all_images(task.images)
    return model


def _triangulate(
    model: pycolmap.Reconstruction, task: ReadjustmentTask, max_error: float
) -> pycolmap.Reconstruction:
    """Find points within `max_error` pixels, at the poses and intrinsics of the model."""
    options, search = task.triangulation, task.triangulation.triangulation
    options.extract_colors = False
    options.mapper.filter_max_reproj_error = max_error
    search.complete_max_reproj_error = search.merge_max_reproj_error = max_error
    search.create_max_angle_error = search.continue_max_angle_error = MAX_ANGLE
    return pycolmap.triangulate_points(
        model,
        task.database,
        task.images,
        empty_folder(task.work),
        clear_points=True,
        options=options,
        refine_intrinsics=False,
    )
