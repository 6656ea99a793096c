"""Models and poses against ground truth, which is a pose by image name in metres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from d2_hloc.core import pose_metrics
from d2_hloc.files.colmap import pycolmap

Poses = Mapping[str, pycolmap.Rigid3d]
THRESHOLDS = ((0.25, 2.0), (0.5, 5.0), (5.0, 10.0))  # metres, degrees
NIGHT_THRESHOLDS = ((0.5, 2.0), (1.0, 5.0), (5.0, 10.0))  # of Aachen's night until mid-2020


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The similarity that brings a model into the ground truth's frame: s R x + t."""

    scale: float = 1.0
    rotation: np.ndarray
    translation: np.ndarray

    def centre(self, pose: pycolmap.Rigid3d) -> np.ndarray:
        """Camera centre of a model's pose, in the ground truth's frame."""
        return self.scale * self.rotation @ centre(pose) + self.translation

    def camera_rotation(self, pose: pycolmap.Rigid3d) -> np.ndarray:
        """World-to-camera rotation of a model's pose, in the ground truth's frame."""
        return pose.rotation.matrix() @ self.rotation.T


IDENTITY = Frame(rotation=np.eye(3), translation=np.zeros(3))


def centre(pose: pycolmap.Rigid3d) -> np.ndarray:
    """Camera centre of a world-to-camera pose."""
    return pose_metrics.camera_centre(pose.rotation.matrix(), pose.translation)


def model_poses(model: pycolmap.Reconstruction) -> dict[str, pycolmap.Rigid3d]:
    """Poses of the registered images, world to camera."""
    images = (model.images[i] for i in model.reg_image_ids())
    return {image.name: image.cam_from_world() for image in images}


def align(poses: Poses, truth: Poses) -> Frame:
    """The frame that brings these poses' camera centres nearest to the truth's.

    Raises:
        ValueError: if they have fewer than three images in common.
    """
    names = sorted(set(poses) & set(truth))
    source = np.array([centre(poses[n]) for n in names]).reshape(-1, 3)
    target = np.array([centre(truth[n]) for n in names]).reshape(-1, 3)
    scale, rotation, translation = pose_metrics.align_similarity(source, target)
    return Frame(scale=scale, rotation=rotation, translation=translation)


def pose_errors(
    poses: Poses, truth: Poses, frame: Frame = IDENTITY
) -> dict[str, tuple[float, float]]:
    """(metres, degrees) for each image of the truth; infinite where there is no pose."""
    errors = {}
    for name in sorted(truth):
        if name not in poses:
            errors[name] = (np.inf, np.inf)
            continue
        position = float(np.linalg.norm(frame.centre(poses[name]) - centre(truth[name])))
        rotation = pose_metrics.rotation_error(
            frame.camera_rotation(poses[name]), truth[name].rotation.matrix()
        )
        errors[name] = (position, rotation)
    return errors


def summarize(
    errors: Mapping[str, tuple[float, float]],
    thresholds: Sequence[tuple[float, float]] = THRESHOLDS,
) -> dict[str, float]:
    """Mean and median errors of those that have a pose, and recall over all of them."""
    finite = np.array([e for e in errors.values() if np.isfinite(e[0])]).reshape(-1, 2)
    result: dict[str, float] = {"poses": len(finite), "of": len(errors)}
    if len(finite):
        result["mean_position_error_m"], result["mean_rotation_error_deg"] = finite.mean(axis=0)
        result["median_position_error_m"], result["median_rotation_error_deg"] = np.median(
            finite, axis=0
        )
    shares = pose_metrics.recall(list(errors.values()), list(thresholds))
    for (metres, degrees), share in zip(thresholds, shares, strict=True):
        result[f"recall_{metres:g}m_{degrees:g}deg"] = share
    return {k: float(v) for k, v in result.items()}
