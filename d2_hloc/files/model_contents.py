"""Checks of a COLMAP model that was read: names, cameras and poses that can be worked with.

COLMAP reads whatever is written there. An absurd camera then costs hours without end, a name that
leads out of the folder of images lets files elsewhere be overwritten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from d2_hloc.core.names import image_names

MAX_EDGE = 10**5  # pixels
# As multiples of the image's longest edge.
FOCAL_LENGTHS = 1e-3, 1e4
PRINCIPAL_POINT = -10.0, 11.0
DISTORTION = 1e4  # the largest parameter


class BadContents(ValueError):
    """A model that reads and cannot be meant; the text says what is wrong, and not where."""


def check_names(names: Sequence[str], where: object) -> None:
    """Raise UnsafeName or BadContents for a name that is no image's, or is there twice."""
    seen: set[str] = set()
    for name in image_names(names, where):
        if name in seen:
            raise BadContents(f"names the image {name} twice")
        seen.add(name)


def camera_problem(camera: Any) -> str | None:
    """Say what is wrong with a pycolmap Camera; None where it can be worked with."""
    if not camera.verify_params():
        return f"{camera.model_name} does not take {len(camera.params)} parameters"
    if not (1 <= camera.width <= MAX_EDGE and 1 <= camera.height <= MAX_EDGE):
        return f"{camera.width} x {camera.height} pixels are not from 1 to {MAX_EDGE} an edge"
    edge, params = max(camera.width, camera.height), np.array(camera.params, dtype=float)
    if not np.isfinite(params).all():
        return "not all of its numbers are finite"
    least, most = (edge * share for share in FOCAL_LENGTHS)
    for focal in params[list(camera.focal_length_idxs())]:
        if not least <= focal <= most:
            return f"a focal length of {focal:g} is not from {least:g} to {most:g} pixels"
    least, most = (edge * share for share in PRINCIPAL_POINT)
    for place in params[list(camera.principal_point_idxs())]:
        if not least <= place <= most:
            return f"a principal point at {place:g} is not from {least:g} to {most:g} pixels"
    for value in params[list(camera.extra_params_idxs())]:
        if abs(value) > DISTORTION:
            return f"a distortion of {value:g} is not from {-DISTORTION:g} to {DISTORTION:g}"
    return None


def check_cameras(cameras: Iterable[Any]) -> None:
    """Raise BadContents for the first camera that cannot be worked with."""
    for camera in cameras:
        if (problem := camera_problem(camera)) is not None:
            raise BadContents(f"its camera {camera.camera_id} cannot be used: {problem}")


def check_poses(images: Iterable[Any]) -> None:
    """Raise BadContents for the first image whose pose holds what is no number."""
    for image in images:
        pose = image.cam_from_world()
        if not np.isfinite([*pose.rotation.quat, *pose.translation]).all():
            raise BadContents(f"the pose of its image {image.name} is not finite")


def check_model(model: Any, where: object) -> None:
    """Check the names, cameras and poses of a pycolmap Reconstruction.

    Raises:
        UnsafeName: for a name that leads out of the folder of images.
        BadContents: for a name twice, a camera that cannot be worked with or a pose that is none.
    """
    try:
        check_names([image.name for image in model.images.values()], where)
    except UnicodeDecodeError as error:
        raise BadContents("the name of one of its images is not in UTF-8") from error
    observed = sum(image.num_points3D for image in model.images.values())
    seen = sum(point.track.length() for point in model.points3D.values())
    if observed != seen:  # COLMAP checks the tracks, and not what images observe
        raise BadContents(f"its images observe points {observed} times, its points hold {seen}")
    check_cameras(model.cameras.values())
    check_poses(model.images[i] for i in model.reg_image_ids())
