"""Intrinsics from nerfstudio's and instant-ngp's transforms.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2_hloc.core.names import image_name
from d2_hloc.core.pixels import image_centre
from d2_hloc.core.text import parse_json, read_text
from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.cameras.camera_lines import CameraError, make_camera

# nerfstudio's models by name, with the keys of their parameters in COLMAP's order.
MODELS = {
    "SIMPLE_PINHOLE": ("PINHOLE", ()),
    "PINHOLE": ("PINHOLE", ()),
    "SIMPLE_RADIAL": ("OPENCV", ("k1", "k2", "p1", "p2")),
    "RADIAL": ("OPENCV", ("k1", "k2", "p1", "p2")),
    "OPENCV": ("OPENCV", ("k1", "k2", "p1", "p2")),
    "OPENCV_FISHEYE": ("OPENCV_FISHEYE", ("k1", "k2", "k3", "k4")),
}
LARGEST = 1e300  # number
Values = Mapping[str, Any]


def read_transforms(path: Path) -> dict[str, pycolmap.Camera]:
    """Cameras by the path of the image, as the file has it; frames that say no more share one.

    Focal lengths and principal points are in pixels whose centres are at half-integers: nerfstudio
    writes such files from COLMAP's models.

    Raises:
        ValueError: for a file that is missing or no JSON.
        CameraError: for what is no transforms.json, or a camera that cannot be used.
    """
    text = read_text(path)
    try:
        values = parse_json(text)
        frames = [(frame["file_path"], dict(frame)) for frame in values["frames"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CameraError(
            f"{path}: is no transforms.json of nerfstudio's: frames with a file_path are expected."
        ) from error
    cameras: dict[str, pycolmap.Camera] = {}
    shared: dict[tuple, pycolmap.Camera] = {}
    for number, (file_path, frame) in enumerate(frames, 1):
        name = image_name(file_path, f"{path}, frame {number}")
        where = f"{path}, frame {name}"
        camera = _camera({**values, **frame}, where)
        key = camera.model_name, camera.width, camera.height, *camera.params.tolist()
        if key not in shared:
            camera.camera_id = len(shared) + 1
            shared[key] = camera
        cameras[image_name(name.removeprefix("./"), where)] = shared[key]
    if not cameras:
        raise CameraError(f"{path}: holds no frame.")
    return cameras


def _camera(values: Values, where: str) -> pycolmap.Camera:
    distorts = any(_number(values, key, where, 0.0) for key in ("k1", "k2", "p1", "p2"))
    named = values.get("camera_model", "OPENCV" if distorts else "PINHOLE")
    if not isinstance(named, str) or named not in MODELS:
        shown = repr(named)[:40]
        raise CameraError(f"{where}: the camera_model {shown} is not of {', '.join(MODELS)}.")
    model, distortion = MODELS[named]
    width, height = (_number(values, key, where) for key in ("w", "h"))
    focal_x = _focal(values, "x", width, where)
    focal_y = _focal(values, "y", height, where) or focal_x
    if not focal_x:
        raise CameraError(f"{where}: has neither fl_x nor camera_angle_x.")
    centre = image_centre(int(width), int(height))
    place = [_number(values, key, where, at) for key, at in zip(("cx", "cy"), centre, strict=True)]
    params = [focal_x, focal_y, *place, *(_number(values, k, where, 0.0) for k in distortion)]
    return make_camera(model, width, height, params, where)


def _focal(values: Values, axis: str, edge: float, where: str) -> float:
    """A focal length in pixels, given as itself or by the angle of view; 0 where it is not."""
    focal = _number(values, f"fl_{axis}", where, 0.0)
    angle = _number(values, f"camera_angle_{axis}", where, 0.0)
    return focal or (edge / 2 / math.tan(angle / 2) if 0 < angle < math.pi else 0.0)


def _number(values: Values, key: str, where: str, default: float | None = None) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CameraError(f"{where}: {key} is {'missing' if value is None else 'no number'}.")
    if not abs(value) <= LARGEST:  # nor NaN
        raise CameraError(f"{where}: {key} is not a finite number.")
    return float(value)
