"""Result of an extraction: which images have features, in which file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from d2_hloc.core.orientation import ORIENTATIONS, UPRIGHT, to_upright, upright_size
from d2_hloc.core.structs import Features
from d2_hloc.files import features_h5
from d2_hloc.files.hdf5_guard import GuardedFile, GuardedGroup


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """Features of images in a file of hloc's format.

    `names` are the images that have features, of those that were asked for, sorted. `failures` are
    the reasons why the last run could not use others, by name.
    """

    path: Path
    names: tuple[str, ...]
    failures: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, among: Iterable[str] | None = None) -> Extracted:
        """Look up what an existing file holds of these images, or of all for None.

        Raises:
            StorageError: if the file is missing or not HDF5.
        """
        names = features_h5.extracted_names(path, among)
        return cls(path=path, names=tuple(names), failures=features_h5.read_failures(path))

    @cached_property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Sizes (w, h) of the images `names`, in pixels; read when they are first asked for."""
        with features_h5.open_h5(self.path) as file:
            return {name: features_h5.image_size_of(file, name) for name in self.names}

    @cached_property
    def orientations(self) -> dict[str, int]:
        """EXIF's orientations of the images that were turned before extraction."""
        return read_orientations(self.path)


def image_orientation(file: GuardedFile, name: str) -> int:
    """EXIF's orientation by which an image was turned for extraction; 1 where none is noted."""
    group = file.get(name)
    size = group.get("image_size") if isinstance(group, GuardedGroup) else None
    found: Any = UPRIGHT if size is None else size.attrs.get("orientation", UPRIGHT)
    return next((known for known in ORIENTATIONS if found == known), UPRIGHT)


def upright_features(file: GuardedFile, name: str) -> tuple[Features, tuple[int, int]]:
    """Features of an image with keypoints in its upright pixels, and its size (w, h) upright.

    Raises:
        StorageError: if it has none, or they have no descriptors.
    """
    found = features_h5.features_of(file, name, needs_descriptors=True)
    size, orientation = features_h5.image_size_of(file, name), image_orientation(file, name)
    upright = replace(found, keypoints=to_upright(found.keypoints, orientation, size))
    return upright, upright_size(size, orientation)


def read_orientations(path: Path) -> dict[str, int]:
    """Orientations of the images that were turned before their features were extracted."""
    with features_h5.open_h5(path) as file:
        found = {name: image_orientation(file, name) for name in file.keys_with("keypoints")}
    return {name: orientation for name, orientation in found.items() if orientation != UPRIGHT}
