"""Descriptors in fewer bytes: features.h5 -> features.h5 (a step), or while they are extracted."""

from __future__ import annotations

from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from d2_hloc.core import config
from d2_hloc.features.extracted import Extracted
from d2_hloc.features.options import CompressionOptions
from d2_hloc.features.projection import load_projection
from d2_hloc.files import features_h5
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.files.provenance import file_sha256
from d2_hloc.files.staged_h5 import Record, Staged, Value


def compression_configuration(options: CompressionOptions | None) -> dict[str, Any]:
    """Everything that compressed descriptors depend on; empty where they are not compressed.

    Raises:
        ValueError: if there is no such projection, or it has fewer dimensions.
    """
    if options is None:
        return {}
    values: dict[str, Any] = {"compression": config.to_dict(options)}
    if options.dimensions is not None:
        projection_of(options)  # a mistake in it should not cost an hour of extraction
        values["projection_sha256"] = file_sha256(options.projection_file)
    return values


def projection_of(options: CompressionOptions | None) -> Callable[[Tensor], Tensor]:
    """The function that makes descriptors (N, D) shorter, or leaves them as they are."""
    if options is None or options.dimensions is None:
        return lambda descriptors: descriptors
    return load_projection(options.projection_file).first(options.dimensions).apply


def compress(options: CompressionOptions, features: Path, output: Path) -> Extracted:
    """Write features with their descriptors compressed; images that are done are left alone.

    Raises:
        StorageError: if a features file cannot be read, or is compressed already.
        ValueError: if the projection cannot be read, or is of other descriptors.
        ConfigurationChanged, DiskFull: as staged_h5.Staged.
    """
    made_by = features_h5.read_configuration(features) or {"features": None}
    if "compression" in made_by:
        raise features_h5.StorageError(
            f"{features}: is compressed already; compress the features that it was made from."
        )
    if features.resolve() == output.resolve():
        raise ValueError(f"{output}: would be written over; give another file to write to.")
    made_by = made_by | compression_configuration(options)
    project = projection_of(options)
    with Staged(output, made_by, "keypoints") as staged, features_h5.open_h5(features) as file:
        _refuse_changed(file, features, output, staged.done)
        staged.failures.update(features_h5.read_failures(features))
        todo = [n for n in features_h5.extracted_names(features) if n not in staged.done]
        for name in tqdm(todo, desc="compress", unit="image", disable=not todo):
            staged.add(name, _compressed(file, name, project, options.dtype))
    return Extracted.read(output)


def _refuse_changed(file: GuardedFile, features: Path, output: Path, done: Set[str]) -> None:
    """Raise StorageError for records that were made from other features than these."""
    if not output.is_file():
        return
    with features_h5.open_h5(output) as before:
        for name in sorted(done):
            if name not in before or name not in file:
                continue
            same = np.array_equal(before[name]["keypoints"][()], file[name]["keypoints"][()])
            if not same:
                raise features_h5.StorageError(
                    f"{output}: was made from other features of {name} than {features} has; "
                    "choose another output."
                )


def _compressed(
    file: GuardedFile, name: str, project: Callable[[Tensor], Tensor], dtype: str
) -> Record:
    """The record of an image, with its descriptors compressed."""
    others = {k: v for k, v in file[name].items() if k != "descriptors"}
    record = {k: Value(v[()], dict(v.attrs)) for k, v in others.items()}
    descriptors = project(features_h5.descriptors_of(file, name))
    return record | {"descriptors": features_h5.descriptors_value(descriptors, dtype)}
