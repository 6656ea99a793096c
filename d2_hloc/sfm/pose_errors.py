"""Models and poses against ground truth, which is a pose by image name in metres."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

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


@dataclass(frozen=True, kw_only=True)
class PoseScores:
    """Accuracy of camera poses: the errors of pose_errors(), and what sums them up.

    Means and medians are of the images that have a pose, in metres and degrees; None if none has.
    """

    errors: Mapping[str, tuple[float, float]]
    thresholds: Sequence[tuple[float, float]] = THRESHOLDS

    @cached_property
    def finite(self) -> dict[str, tuple[float, float]]:
        """Errors of the images that have a pose."""
        return {name: error for name, error in self.errors.items() if np.isfinite(error[0])}

    @cached_property
    def mean(self) -> tuple[float, float] | None:
        """Mean position and rotation error."""
        return self._of_finite(np.mean)

    @cached_property
    def median(self) -> tuple[float, float] | None:
        """Median position and rotation error."""
        return self._of_finite(np.median)

    @cached_property
    def recall(self) -> tuple[float, ...]:
        """Share of all images within each threshold."""
        errors = list(self.errors.values())
        return tuple(map(float, pose_metrics.recall(errors, list(self.thresholds))))

    def _of_finite(self, summary: Callable[..., np.ndarray]) -> tuple[float, float] | None:
        if not self.finite:
            return None
        metres, degrees = summary(np.array(list(self.finite.values())), axis=0)
        return float(metres), float(degrees)

    def to_dict(self) -> dict[str, float]:
        """Plain values for run.json, by names that say the unit and the threshold."""
        values: dict[str, float] = {"poses": len(self.finite), "of": len(self.errors)}
        for kind, errors in (("mean", self.mean), ("median", self.median)):
            if errors is not None:
                values[f"{kind}_position_error_m"], values[f"{kind}_rotation_error_deg"] = errors
        for (metres, degrees), share in zip(self.thresholds, self.recall, strict=True):
            values[f"recall_{metres:g}m_{degrees:g}deg"] = share
        return {name: float(value) for name, value in values.items()}
