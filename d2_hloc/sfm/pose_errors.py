"""Models and poses against ground truth, which is a pose by image name in metres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from d2_hloc.core import pose_metrics
from d2_hloc.files.colmap import pycolmap

Poses = Mapping[str, pycolmap.Rigid3d]
THRESHOLDS = ((0.25, 2.0), (0.5, 5.0), (5.0, 10.0))  # metres, degrees
NIGHT_THRESHOLDS = ((0.5, 2.0), (1.0, 5.0), (5.0, 10.0))  # of Aachen's night until mid-2020


class PoseError(NamedTuple):
    """Distance of the camera centres, and angle of the rotations."""

    metres: float
    degrees: float


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """The similarity that brings a model into the ground truth's frame: s R x + t."""

    scale: float = 1.0
    rotation: np.ndarray
    translation: np.ndarray

    def centre(self, pose: pycolmap.Rigid3d) -> np.ndarray:
        """Camera centre of a model's pose, in the ground truth's frame."""
        return self.scale * self.rotation @ centre(pose) + self.translation

    def apply(self, xyz: np.ndarray) -> np.ndarray:
        """Points (N, 3) of a model, in the ground truth's frame."""
        return self.scale * xyz @ np.asarray(self.rotation).T + self.translation

    def camera_rotation(self, pose: pycolmap.Rigid3d) -> np.ndarray:
        """World-to-camera rotation of a model's pose, in the ground truth's frame."""
        return pose.rotation.matrix() @ self.rotation.T


IDENTITY = Alignment(rotation=np.eye(3), translation=np.zeros(3))


def centre(pose: pycolmap.Rigid3d) -> np.ndarray:
    """Camera centre of a world-to-camera pose."""
    return pose_metrics.camera_centre(pose.rotation.matrix(), pose.translation)


def model_poses(model: pycolmap.Reconstruction) -> dict[str, pycolmap.Rigid3d]:
    """Poses of the registered images, world to camera."""
    images = (model.images[i] for i in model.reg_image_ids())
    return {image.name: image.cam_from_world() for image in images}


def align(poses: Poses, truth: Poses) -> Alignment:
    """The frame that brings these poses' camera centres nearest to the truth's.

    Raises:
        ValueError: if they have fewer than three images in common.
    """
    names = sorted(set(poses) & set(truth))
    source = np.array([centre(poses[n]) for n in names]).reshape(-1, 3)
    target = np.array([centre(truth[n]) for n in names]).reshape(-1, 3)
    scale, rotation, translation = pose_metrics.align_similarity(source, target)
    return Alignment(scale=scale, rotation=rotation, translation=translation)


def check_frame(truth: Poses, where: object) -> None:
    """Raise ValueError if the cameras of ground truth lie so that no model can be aligned to them.

    Fewer than three are not looked at: others may join them.
    """
    if len(truth) >= 3:
        try:
            align(truth, truth)
        except ValueError as error:
            raise ValueError(
                f"{where}: all its cameras are at one place or on one line, which no model can be "
                "aligned to; leave the ground truth out."
            ) from error


def pose_errors(poses: Poses, truth: Poses, frame: Alignment = IDENTITY) -> dict[str, PoseError]:
    """Errors of the poses by image of the truth; infinite where there is no pose."""
    errors = {}
    for name in sorted(truth):
        if name not in poses:
            errors[name] = PoseError(np.inf, np.inf)
            continue
        position = float(np.linalg.norm(frame.centre(poses[name]) - centre(truth[name])))
        rotation = pose_metrics.rotation_error(
            frame.camera_rotation(poses[name]), truth[name].rotation.matrix()
        )
        errors[name] = PoseError(position, rotation)
    return errors


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Share of the images whose pose is within a position and a rotation error."""

    metres: float
    degrees: float
    share: float

    @property
    def name(self) -> str:
        """Name of the share in run.json, with the thresholds."""
        return f"recall_{self.metres:g}m_{self.degrees:g}deg"


@dataclass(frozen=True, kw_only=True)
class PoseSummary:
    """Errors of many poses: of the `of` images of the truth, `poses` have a pose.

    `mean` and `median` are over those that have one, None where there is none; `recalls` are shares
    of all of them.
    """

    poses: int
    of: int
    mean: PoseError | None
    median: PoseError | None
    recalls: tuple[Recall, ...]

    def to_dict(self) -> dict[str, float]:
        """The summary in plain values, as run.json holds it."""
        values = {"poses": float(self.poses), "of": float(self.of)}
        for kind, error in (("mean", self.mean), ("median", self.median)):
            if error is not None:
                values[f"{kind}_position_error_m"] = error.metres
                values[f"{kind}_rotation_error_deg"] = error.degrees
        for recall in self.recalls:
            values[recall.name] = recall.share
        return values


def summarize_poses(
    errors: Mapping[str, tuple[float, float]],
    thresholds: Sequence[tuple[float, float]] = THRESHOLDS,
) -> PoseSummary:
    """Mean and median errors of the images that have a pose, and recall over all of them.

    Errors and thresholds are in (metres, degrees).
    """
    finite = np.array([e for e in errors.values() if np.isfinite(e[0])]).reshape(-1, 2)
    shares = pose_metrics.recall(list(errors.values()), list(thresholds))
    return PoseSummary(
        poses=len(finite),
        of=len(errors),
        mean=PoseError(*map(float, finite.mean(axis=0))) if len(finite) else None,
        median=PoseError(*map(float, np.median(finite, axis=0))) if len(finite) else None,
        recalls=tuple(
            Recall(metres=metres, degrees=degrees, share=float(share))
            for (metres, degrees), share in zip(thresholds, shares, strict=True)
        ),
    )
