"""Which images one camera took: their intrinsics are then estimated together.

Cameras of one `camera_id` are one camera; a camera without an id is of its image alone.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from d2_hloc.core.exif import ImageHeader, read_header
from d2_hloc.core.images import open_image
from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.cameras.camera_lines import CameraError
from d2_hloc.sfm.cameras.guess import guess_camera
from d2_hloc.sfm.cameras.intrinsics import Intrinsics
from d2_hloc.sfm.cameras.options import MODEL, CameraSharing

logger = logging.getLogger(__name__)

NO_ID = pycolmap.Camera().camera_id


def cameras_of(
    folder: Path,
    names: Sequence[str],
    intrinsics: Intrinsics,
    model: str = MODEL,
    sharing: CameraSharing = "auto",
) -> dict[str, pycolmap.Camera]:
    """A camera for each image of a folder; those that the file does not name are guessed.

    Says on the log which entries of the file and which images were left over, and which guessed
    cameras are shared.

    Raises:
        CameraError: as Intrinsics.among and groups_of.
    """
    known = intrinsics.among(names)
    intrinsics.say_what_is_left(names)
    return known_or_guessed(known, folder, names, model, sharing)


def known_or_guessed(
    known: Mapping[str, pycolmap.Camera],
    folder: Path,
    names: Sequence[str],
    model: str = MODEL,
    sharing: CameraSharing = "per-image",
) -> dict[str, pycolmap.Camera]:
    """A camera for each image; those that are not known are guessed, one for a group of images."""
    cameras = {name: known[name] for name in names if name in known}
    left = [name for name in names if name not in known]
    last_id = max((c.camera_id for c in cameras.values() if c.camera_id != NO_ID), default=0)
    groups = groups_of(folder, left, sharing)
    for camera_id, group in enumerate(groups, last_id + 1):
        camera = guess_camera(folder / group[0], model)
        camera.camera_id = camera_id if len(group) > 1 else NO_ID
        cameras |= dict.fromkeys(group, camera)
    return {name: cameras[name] for name in names}


def count_cameras(cameras: Mapping[str, pycolmap.Camera]) -> int:
    """How many cameras took the images."""
    ids = [camera.camera_id for camera in cameras.values()]
    return len(set(ids) - {NO_ID}) + ids.count(NO_ID)


def groups_of(folder: Path, names: Sequence[str], sharing: CameraSharing) -> list[list[str]]:
    """Images by the camera that took them.

    `auto` takes images for one camera's whose size and EXIF make, model and focal length agree, as
    COLMAP does; and those of a folder none of whose images says its camera, if all of them are of
    one size, or that size turned: frames of a video, or photographs whose EXIF was removed.

    Raises:
        CameraError: if images of several sizes are said to be of one camera.
    """
    if sharing == "per-image":
        return [[name] for name in names]
    headers = {name: _header(folder / name) for name in names}
    if sharing == "auto":
        keys = _auto_keys(headers)
    else:
        keys = {name: "" if sharing == "single" else _folder_of(name) for name in names}
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for name in names:
        groups[keys[name]].append(name)
    for group in groups.values():
        _check_one_size(group, headers, sharing)
    if sharing == "auto":
        _say_what_is_shared(groups.values(), headers)
    return list(groups.values())


def _header(path: Path) -> ImageHeader:
    return read_header(path) or ImageHeader(size=open_image(path).size)


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _auto_keys(headers: Mapping[str, ImageHeader]) -> dict[str, Hashable]:
    """Key of the camera of each image; its own name where nothing tells it from others."""
    of_folder: dict[str, list[ImageHeader]] = defaultdict(list)
    for name, header in headers.items():
        of_folder[_folder_of(name)].append(header)
    alike = {
        folder
        for folder, found in of_folder.items()
        if all(h.camera is None for h in found) and len({tuple(sorted(h.size)) for h in found}) == 1
    }
    keys: dict[str, Hashable] = {}
    for name, header in headers.items():
        if header.camera is not None:
            keys[name] = header.size, header.camera
        elif _folder_of(name) in alike:
            keys[name] = header.size, _folder_of(name)
        else:
            keys[name] = name
    return keys


def _check_one_size(
    group: Sequence[str], headers: Mapping[str, ImageHeader], sharing: CameraSharing
) -> None:
    first = group[0]
    for name in group:
        if headers[name].size != headers[first].size:
            sizes = [f"{n} is {headers[n].size[0]} x {headers[n].size[1]}" for n in (first, name)]
            raise CameraError(
                f"cameras {sharing}: {' and '.join(sizes)} pixels, and one camera has one size; "
                "choose auto."
            )


def _say_what_is_shared(
    groups: Iterable[Sequence[str]], headers: Mapping[str, ImageHeader]
) -> None:
    """Sharing is a guess that the user may know better than: it is said, and how to change it."""
    by_exif = [g for g in groups if headers[g[0]].camera is not None]
    alike = [g for g in groups if headers[g[0]].camera is None and len(g) > 1]
    if any(len(group) > 1 for group in by_exif):
        logger.info(
            "%d images are of %d cameras by their EXIF", sum(map(len, by_exif)), len(by_exif)
        )
    for group in alike:
        folder, size = _folder_of(group[0]), headers[group[0]].size
        logger.info(
            "%d images of %d x %d%s have no camera in their EXIF and are taken for one camera's; "
            "choose --cameras per-image if they are of several",
            len(group),
            *size,
            f" in {folder}/" if folder else "",
        )
