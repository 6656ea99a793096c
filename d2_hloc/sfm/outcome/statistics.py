"""Counts of a model's parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.adjustment.outliers import reprojection_errors


@dataclass(frozen=True, kw_only=True)
class ModelStatistics:
    """Counts of a model's parts. Reprojection errors, in pixels, are over all observations."""

    registered_images: int
    points: int
    observations: int
    mean_track_length: float
    observations_per_image: float
    mean_reprojection_error: float
    median_track_length: float
    median_reprojection_error: float


def model_statistics(model: pycolmap.Reconstruction) -> ModelStatistics:
    """Count a model's parts."""
    lengths = np.array([p.track.length() for p in model.points3D.values()], dtype=float)
    errors = np.sort(reprojection_errors(model))  # in whichever order images are: the same mean
    observations = int(lengths.sum())
    return ModelStatistics(
        registered_images=model.num_reg_images(),
        points=len(lengths),
        observations=observations,
        mean_track_length=float(lengths.mean()) if observations else 0.0,
        observations_per_image=observations / max(1, model.num_reg_images()),
        mean_reprojection_error=float(errors.mean()) if len(errors) else 0.0,
        median_track_length=float(np.median(lengths)) if observations else 0.0,
        median_reprojection_error=float(np.median(errors)) if len(errors) else 0.0,
    )
