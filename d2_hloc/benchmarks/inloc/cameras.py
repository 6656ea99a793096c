"""Cameras of InLoc's queries: by the benchmark's rule, a list of intrinsics, or EXIF."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from d2_hloc.benchmarks.inloc.data import short_name
from d2_hloc.core.pixels import image_centre
from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.cameras.camera_lines import CameraError
from d2_hloc.sfm.cameras.guess import guess_camera
from d2_hloc.sfm.cameras.intrinsics import read_intrinsics

logger = logging.getLogger(__name__)

FOCAL = 28 / 36  # of the longest edge: an iPhone 7's 28 mm where 36 mm is as wide as the image


@dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """Source of the focal lengths of the queries.

    `focal` is InLoc's 4032 * 28 / 36 pixels of a 4032 wide image, or each image's EXIF. A list
    `intrinsics`, `name MODEL w h params...`, takes the place of both; it has queries by full or
    short name.

    Attributes:
        focal: inloc: 4032 * 28 / 36 pixels of an image 4032 wide; exif: each image's own.
        intrinsics: list of 'name MODEL w h params...' lines, which takes the place of both.
    """

    focal: Literal["inloc", "exif"] = "inloc"
    intrinsics: Path | None = None


def query_cameras(
    options: CameraOptions, folder: Path, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, pycolmap.Camera]:
    """Find the cameras of queries, given by name with their sizes (w, h).

    Raises:
        CameraError: if the list lacks a query, or its size is not the image's.
    """
    listed = read_intrinsics(options.intrinsics) if options.intrinsics else {}
    cameras = {}
    for name, size in sizes.items():
        if options.intrinsics:
            cameras[name] = _listed(listed, name, size, options.intrinsics)
        else:
            cameras[name] = _camera(options, folder / name, size)
    return cameras


def _camera(options: CameraOptions, path: Path, size: tuple[int, int]) -> pycolmap.Camera:
    if options.focal == "exif":
        camera = guess_camera(path, "SIMPLE_PINHOLE")
        if camera.has_prior_focal_length:
            return camera
        logger.warning("%s: has no focal length in its EXIF; InLoc's rule is taken", path)
    return inloc_camera(size)


def inloc_camera(size: tuple[int, int]) -> pycolmap.Camera:
    """Make the benchmark's camera of an image of size (w, h); it looks through its middle."""
    params = [FOCAL * max(size), *image_centre(*size)]
    return pycolmap.Camera(model="SIMPLE_PINHOLE", width=size[0], height=size[1], params=params)


def _listed(
    listed: dict[str, pycolmap.Camera], name: str, size: tuple[int, int], path: Path
) -> pycolmap.Camera:
    camera = listed.get(name) or listed.get(short_name(name))
    if camera is None:
        raise CameraError(f"{path}: lacks {short_name(name)}.")
    if (camera.width, camera.height) != size:
        raise CameraError(
            f"{path}: {short_name(name)} is {size[0]} x {size[1]} pixels, but its camera "
            f"{camera.width} x {camera.height}."
        )
    return camera
