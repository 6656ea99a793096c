"""Known intrinsics of images, from a text file with a line an image."""

from __future__ import annotations

from pathlib import Path

from d2_hloc.core.names import image_name, split_entry
from d2_hloc.core.pixels import to_colmap
from d2_hloc.core.text import numbered_lines
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.model_contents import MAX_EDGE, camera_problem

FORM = "expected 'name MODEL width height params...'."
EVERY = "*"  # stands for the names of all images


class CameraError(ValueError):
    """Intrinsics that cannot be used; the text names the file, the line and the remedy."""


def read_camera_lines(path: Path) -> dict[str, pycolmap.Camera]:
    """Cameras by image name, from a text file with a line an image.

    `name MODEL width height params...` is hloc's and COLMAP's form: pixel centres at half-integers.
    `name width height fx fy cx cy [pose...]` is a pinhole camera with pixel centres at integers.
    Names may hold spaces; a tab after one ends it for sure. The name `*` is of all images,
    `folder/*` of those in a folder, that have no line of their own: one camera took them.

    Raises:
        ValueError: for a file that is missing or names no image.
        CameraError: for a line that is not of these forms.
    """
    cameras: dict[str, pycolmap.Camera] = {}
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        name, fields = split_entry(line, pycolmap.CameraModelId.__members__)
        name = image_name(name, where)
        camera = _parse_camera(fields, where)
        if EVERY in name:
            if name.rpartition("/")[2] != EVERY or name.count(EVERY) > 1:
                raise CameraError(f"{where}: {name} is neither * nor folder/*, nor an image.")
            camera.camera_id = number
        known = cameras.setdefault(name, camera)
        if _numbers(known) != _numbers(camera):
            raise CameraError(f"{where}: gives {name} another camera than a line before.")
    if not cameras:
        raise CameraError(f"{path}: holds no camera; {FORM}")
    return cameras


def _numbers(camera: pycolmap.Camera) -> tuple[str, int, int, list[float]]:
    """All that tells one camera from another, to compare them by."""
    return camera.model_name, camera.width, camera.height, camera.params.tolist()


def _parse_camera(fields: list[str], where: str) -> pycolmap.Camera:
    try:
        if fields[0][0].isdigit():
            width, height, fx, fy, cx, cy = (float(f) for f in fields[:6])
            model, params = "PINHOLE", [fx, fy, to_colmap(cx), to_colmap(cy)]
        else:
            model, (width, height, *params) = fields[0], map(float, fields[1:])
    except (IndexError, ValueError) as error:
        raise CameraError(f"{where}: {FORM}") from error
    return make_camera(model, width, height, params, where)


def make_camera(
    model: str, width: float, height: float, params: list[float], where: str
) -> pycolmap.Camera:
    """A camera whose focal length is known, from numbers that may be anything.

    `where` begins the text of an error.

    Raises:
        CameraError: for what is no camera that can be worked with.
    """
    if not all(1 <= edge <= MAX_EDGE and edge.is_integer() for edge in (width, height)):
        raise CameraError(
            f"{where}: {width:g} x {height:g} are not whole numbers from 1 to {MAX_EDGE}."
        )
    try:
        camera = pycolmap.Camera(model=model, width=int(width), height=int(height), params=params)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CameraError(f"{where}: {FORM}") from error
    if (problem := camera_problem(camera)) is not None:
        raise CameraError(f"{where}: {problem}.")
    camera.has_prior_focal_length = True
    return camera
