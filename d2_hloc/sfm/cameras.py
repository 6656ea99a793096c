"""Cameras of images: from a file of known intrinsics, otherwise from EXIF or COLMAP's guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from d2_hloc.core.images import open_image
from d2_hloc.core.names import image_name
from d2_hloc.core.pixels import to_colmap
from d2_hloc.core.text import numbered_lines
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.model_contents import MAX_EDGE, camera_problem


class CameraError(ValueError):
    """Intrinsics that cannot be used; the text names the file, the line and the remedy."""


def read_intrinsics(path: Path) -> dict[str, pycolmap.Camera]:
    """Cameras by image name, from a text file with a line an image.

    `name MODEL width height params...` is hloc's and COLMAP's form: pixel centres at half-integers.
    `name width height fx fy cx cy [pose...]` is a pinhole camera with pixel centres at integers.

    Raises:
        ValueError: for a file that is missing or names no image.
        CameraError: for a line that is not of these forms.
    """
    cameras = {}
    for number, line in numbered_lines(path):
        name, *fields = line.split()
        where = f"{path}, line {number}"
        camera = _parse_camera(fields, where)
        known = cameras.setdefault(image_name(name, where), camera)
        if _numbers(known) != _numbers(camera):
            raise CameraError(f"{where}: gives {name} another camera than a line before.")
    if not cameras:
        raise CameraError(f"{path}: holds no camera; expected 'name MODEL width height params...'.")
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
        if not all(1 <= edge <= MAX_EDGE and edge.is_integer() for edge in (width, height)):
            raise CameraError(
                f"{where}: {width:g} x {height:g} are not whole numbers from 1 to {MAX_EDGE}."
            )
        camera = pycolmap.Camera(model=model, width=int(width), height=int(height), params=params)
    except CameraError:
        raise
    except (IndexError, ValueError, TypeError, RuntimeError) as error:
        raise CameraError(f"{where}: expected 'name MODEL width height params...'.") from error
    if (problem := camera_problem(camera)) is not None:
        raise CameraError(f"{where}: {problem}.")
    camera.has_prior_focal_length = True
    return camera


def guess_camera(path: Path, model: str = "SIMPLE_RADIAL") -> pycolmap.Camera:
    """A camera from an image's EXIF focal length, or 1.2 times its longest edge."""
    options = pycolmap.ImageReaderOptions(camera_model=model)
    try:
        return pycolmap.infer_camera_from_image(path, options)
    except (ValueError, RuntimeError):
        # A form of image that COLMAP does not read though we do: the guess it would make.
        width, height = open_image(path).size
        camera = pycolmap.Camera.create_from_model_name(
            0, model, options.default_focal_length_factor * max(width, height), width, height
        )
        camera.has_prior_focal_length = False
        return camera


def check_camera_model(name: str) -> None:
    """Raise CameraError if COLMAP has no camera model of that name."""
    known = sorted(set(pycolmap.CameraModelId.__members__) - {"INVALID"})
    if name not in known:
        raise CameraError(f"camera_model {name!r} is not of {', '.join(known)}.")


def check_camera_sizes(
    cameras: Mapping[str, pycolmap.Camera], sizes: Mapping[str, tuple[int, int]]
) -> None:
    """Raise CameraError if a camera's size is not that of its image: points would be elsewhere.

    `sizes` are the images' (w, h), in pixels.
    """
    for name, camera in cameras.items():
        width, height = sizes[name]
        if (camera.width, camera.height) != (width, height):
            raise CameraError(
                f"{name} is {width} x {height} pixels, but its camera {camera.width} x "
                f"{camera.height}; give intrinsics of the images as they are."
            )


def cameras_of(
    folder: Path, names: Sequence[str], intrinsics: Path | None, model: str = "SIMPLE_RADIAL"
) -> dict[str, pycolmap.Camera]:
    """A camera for each image; those that the file does not name are guessed.

    Raises:
        CameraError: if the file names none of the images; and as read_intrinsics.
    """
    known = read_intrinsics(intrinsics) if intrinsics else {}
    if known and not known.keys() & set(names):
        raise CameraError(
            f"{intrinsics}: names none of the images of {folder}; its first is {next(iter(known))}."
        )
    return known_or_guessed(known, folder, names, model)


def known_or_guessed(
    known: Mapping[str, pycolmap.Camera], folder: Path, names: Sequence[str], model: str
) -> dict[str, pycolmap.Camera]:
    """A camera for each image; those that are not known are guessed."""
    return {n: known[n] if n in known else guess_camera(folder / n, model) for n in names}


def known_names(intrinsics: Path | None) -> set[str]:
    """Names of the images whose intrinsics the file gives."""
    return set(read_intrinsics(intrinsics)) if intrinsics else set()
