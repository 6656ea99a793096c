"""Known intrinsics of images: from a file of lines, a COLMAP model, or a transforms.json."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from d2_hloc.files.colmap import camera_of, is_model, pycolmap, read_model, sparse_folder
from d2_hloc.sfm.cameras.camera_lines import EVERY, CameraError, read_camera_lines
from d2_hloc.sfm.cameras.transforms import read_transforms

logger = logging.getLogger(__name__)

SHOWN = 5  # names in a sentence


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """Known cameras by image name, and the file that they are from; None: nothing is known.

    `*` and `folder/*` stand for all images, or those in a folder, that are not named themselves.
    Entries of the images in `elsewhere` are expected to match none here.
    """

    path: Path | None = None
    cameras: Mapping[str, pycolmap.Camera] = field(default_factory=dict)
    elsewhere: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: Path | None) -> Intrinsics:
        """Read a file of intrinsics, where there is one.

        Raises:
            ValueError, CameraError, ModelError: as read_intrinsics.
        """
        return cls() if path is None else cls(path=path, cameras=read_intrinsics(path))

    def among(self, names: Sequence[str]) -> dict[str, pycolmap.Camera]:
        """Cameras of the images that the file names.

        Raises:
            CameraError: if there is a file, and it names none of them.
        """
        entries = self._entries(names)
        found = {name: self.cameras[entry] for name, entry in entries.items() if entry}
        if self.path is not None and not found:
            first = next(iter(self.cameras))
            raise CameraError(f"{self.path}: names none of the images; its first is {first}.")
        return found

    def _entries(self, names: Sequence[str]) -> dict[str, str]:
        """The entry of the file that each image has its camera from; empty where there is none."""
        by_image = _below_folder(self.cameras, names) if _is_json(self.path) else {}
        return {name: by_image.get(name) or entry_of(self.cameras, name) for name in names}

    def say_what_is_left(self, names: Sequence[str]) -> None:
        """Log the entries that match no image, and the images that the file does not name."""
        if self.path is None:
            return
        entries = self._entries(names)
        known = {*entries.values(), *self.elsewhere}
        unused = [entry for entry in self.cameras if entry not in known]
        if unused:
            lower = {name.lower(): name for name in names}
            near = {e: lower[e.lower()] for e in unused if e.lower() in lower}
            listed = [f"{e} (there is {near[e]})" if e in near else e for e in unused]
            listed.sort(key=lambda text: "(there is " not in text)
            logger.warning("%s: %s", self.path, _some(listed, "names that match no image here"))
        left = [name for name in names if not entries[name]]
        if left:
            what = "images that are not in it, and guessed"
            logger.warning("%s: %s", self.path, _some(left, what))


def _some(names: Sequence[str], what: str) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what} ({len(names)}): {', '.join(names[:SHOWN])}{more}"


def entry_of(cameras: Mapping[str, object], name: str) -> str:
    """The entry that an image's camera is from: its own, its folder's, or `*`; else empty."""
    if name in cameras:
        return name
    folder = name
    while "/" in folder:
        folder = folder.rpartition("/")[0]
        if f"{folder}/{EVERY}" in cameras:
            return f"{folder}/{EVERY}"
    return EVERY if EVERY in cameras else ""


def _is_json(path: Path | None) -> bool:
    return path is not None and path.suffix.lower() == ".json"


def _below_folder(cameras: Mapping[str, object], names: Sequence[str]) -> dict[str, str]:
    """Entries by image, where the file's paths lead through the folder of images.

    As `images/a.png` for the image `a.png` of the folder images/; it may be without its suffix.
    """
    known = {name: name for name in names} | {name.rpartition(".")[0]: name for name in names}
    found: dict[str, str] = {}
    for entry in cameras:
        ending = entry
        while ending not in known and "/" in ending:
            ending = ending.partition("/")[2]
        if ending in known:
            found.setdefault(known[ending], entry)
    return found


def read_intrinsics(path: Path) -> dict[str, pycolmap.Camera]:
    """Cameras by image name; cameras of one id are one camera.

    `path` is a text file with a line an image (camera_lines.read_camera_lines), nerfstudio's
    transforms.json, or a COLMAP model, by its folder or its cameras.txt or cameras.bin.

    Raises:
        ValueError: for a file that is missing or names no image.
        CameraError: for cameras that cannot be used.
        ModelError: for a model that cannot be read.
    """
    folder = path.parent if path.name in ("cameras.txt", "cameras.bin") else sparse_folder(path)
    if path.is_dir() or (folder == path.parent and is_model(folder)):
        model = read_model(folder, needs_points=False)
        cameras = {image.name: camera_of(image) for image in model.images.values()}
        for camera in cameras.values():
            camera.has_prior_focal_length = True
        return cameras
    return read_transforms(path) if _is_json(path) else read_camera_lines(path)


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
