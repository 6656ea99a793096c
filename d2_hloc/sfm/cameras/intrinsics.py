"""Known intrinsics of images, from a file with a line an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from d2_hloc.core.names import image_name
from d2_hloc.core.pixels import to_colmap
from d2_hloc.core.text import numbered_lines
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.model_contents import MAX_EDGE, camera_problem


class CameraError(ValueError):
    """Intrinsics that cannot be used; the text names the file, the line and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """Known cameras by image name, and the file that they are from; None: nothing is known."""

    path: Path | None = None
    cameras: Mapping[str, pycolmap.Camera] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | None) -> Intrinsics:
        """Read a file of intrinsics, where there is one.

        Raises:
            ValueError, CameraError: as read_intrinsics.
        """
        return cls() if path is None else cls(path=path, cameras=read_intrinsics(path))

    def among(self, names: Sequence[str]) -> dict[str, pycolmap.Camera]:
        """Cameras of the images that the file names.

        Raises:
            CameraError: if there is a file, and it names none of them.
        """
        found = {name: self.cameras[name] for name in names if name in self.cameras}
        if self.path is not None and not found:
            first = next(iter(self.cameras))
            raise CameraError(f"{self.path}: names none of the images; its first is {first}.")
        return found


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
