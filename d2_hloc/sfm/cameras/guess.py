"""A camera that no file of intrinsics gives, of the camera model asked for.

Its focal length is EXIF's, otherwise COLMAP's guess.
"""

from __future__ import annotations

from pathlib import Path

from d2_hloc.core.images import open_image
from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.cameras.camera_lines import CameraError
from d2_hloc.sfm.cameras.options import MODEL


def guess_camera(path: Path, model: str = MODEL) -> pycolmap.Camera:
    """A camera from an image's EXIF focal length, or 1.2 times its longest edge."""
    options = pycolmap.ImageReaderOptions(camera_model=model)
    try:
        return pycolmap.infer_camera_from_image(path, options)
    except (ValueError, RuntimeError):
        # A form of image that COLMAP does not read though we do: the guess it would make.
        return default_camera(model, open_image(path).size)


def default_camera(model: str, size: tuple[int, int]) -> pycolmap.Camera:
    """COLMAP's guess for an image of a size (w, h) that nothing else is known of."""
    factor = pycolmap.ImageReaderOptions().default_focal_length_factor
    camera = pycolmap.Camera.create_from_model_name(0, model, factor * max(size), *size)
    camera.has_prior_focal_length = False
    return camera


def check_camera_model(name: str) -> None:
    """Raise CameraError if COLMAP has no camera model of that name."""
    known = sorted(set(pycolmap.CameraModelId.__members__) - {"INVALID"})
    if name not in known:
        raise CameraError(f"camera_model {name!r} is not of {', '.join(known)}.")
