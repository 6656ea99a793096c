"""features.h5 and matches.h5 in hloc's format, with the configuration that made them.

Keypoints are float32 and matches int32: hloc's own float16 keypoints move in steps of a pixel from
1024 on, and its int16 matches wrap. Files that hloc wrote are read as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2_hloc.core.names import image_names
from d2_hloc.core.orientation import UPRIGHT
from d2_hloc.core.structs import Features, Matches
from d2_hloc.files.checked_arrays import (
    StorageError,
    array_shape,
    read_array,
    read_json,
    single_precision,
)
from d2_hloc.files.hdf5_guard import GuardedDataset, GuardedFile, GuardedGroup
from d2_hloc.files.staged_h5 import Record, Value, why_unreadable

DESCRIPTOR_DTYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
INT8_MEANING = "unit descriptors, multiplied by scale and rounded"


def open_h5(path: Path) -> GuardedFile:
    """Open an existing file to read.

    Raises:
        StorageError: if it is missing or not HDF5.
    """
    if not path.exists():
        raise StorageError(f"{path}: there is no such file.")
    try:
        return GuardedFile(path)
    except OSError as error:
        raise StorageError(why_unreadable(path, error)) from error


def extracted_names(path: Path, among: Iterable[str] | None = None) -> list[str]:
    """Names of the images that a features file holds, sorted; only those `among` these.

    Raises:
        UnsafeName: for a name that leads out of the folder of images.
    """
    with open_h5(path) as file:
        names = file.keys_with("keypoints", "global_descriptor")
    return sorted(image_names(names if among is None else names & set(among), path))


def read_configuration(path: Path) -> dict[str, Any] | None:
    """The configuration that made a file; None where it holds none, as hloc's own."""
    with open_h5(path) as file:
        text = file.attrs.get("configuration")
    return None if text is None else read_json(text, f"{path}: what made it")


def read_failures(path: Path) -> dict[str, str]:
    """Images that could not be used, with the reason, in the run that last wrote the file."""
    with open_h5(path) as file:
        found = read_json(file.attrs.get("failures", "{}"), f"{path}: its list of failures")
    return {str(name): str(reason) for name, reason in found.items()}


def features_record(
    features: Features,
    image_size: tuple[int, int],
    uncertainty: float,
    descriptor_dtype: str,
    source: tuple[int, int] | None = None,
    orientation: int = UPRIGHT,
) -> Record:
    """hloc's datasets of one image. `uncertainty` is the keypoints' deviation in pixels.

    `source` is the image file's length in bytes and CRC-32, by which a changed image is known.
    `orientation` is EXIF's, by which the image was turned before its features were extracted;
    keypoints and size are the stored image's.
    """
    record: Record = {
        "keypoints": Value(features.keypoints.cpu().numpy(), {"uncertainty": uncertainty}),
        "descriptors": descriptors_value(features.descriptors, descriptor_dtype),
        "scores": Value(features.scores.cpu().numpy()),
        "scales": Value(features.scales.cpu().numpy()),
        "image_size": Value(np.array(image_size), _source_attributes(source, orientation)),
    }
    if features.pyramids is not None:
        record["pyramids"] = Value(features.pyramids.cpu().numpy().astype(np.uint8))
    if features.global_descriptor is not None:
        record["global_descriptor"] = Value(features.global_descriptor.cpu().numpy())
    return record


def descriptors_value(descriptors: torch.Tensor, dtype: str) -> Value:
    """Descriptors (N, D) as they are stored, (D, N).

    hloc reads int8 as numbers up to 127. All of an image have one scale, so that neighbours by dot
    product stay what they are, in hloc too; thresholds of distance or ratio need unit length, which
    features_of gives back.
    """
    found = descriptors.float().cpu().numpy().T
    if dtype != "int8":
        return Value(found.astype(DESCRIPTOR_DTYPES[dtype]))
    largest = float(np.abs(found).max(initial=0.0))
    scale = 127 / largest if largest else 1.0
    return Value(np.rint(found * scale).astype(np.int8), {"scale": scale, "meaning": INT8_MEANING})


def _source_attributes(source: tuple[int, int] | None, orientation: int) -> dict[str, int]:
    found = {} if source is None else {"source_bytes": source[0], "source_crc32": source[1]}
    return found if orientation == UPRIGHT else found | {"orientation": orientation}


def checksum_of(file: GuardedFile, name: str) -> tuple[int, int] | None:
    """The image file's length in bytes and CRC-32, or None where the features do not say."""
    attributes = _group(file, name, "keypoints").get("image_size", file).attrs
    try:
        return int(attributes["source_bytes"]), int(attributes["source_crc32"])
    except (KeyError, TypeError, ValueError):
        return None


def read_features(path: Path, name: str) -> Features:
    """Features of one image, whoever wrote them; descriptors keep their precision.

    Descriptors of whole numbers become float32 of unit length.

    Raises:
        StorageError: if the image is not in the file, or its datasets do not fit together.
    """
    with open_h5(path) as file:
        return features_of(file, name)


def features_of(file: GuardedFile, name: str, needs_descriptors: bool = False) -> Features:
    """Read features as read_features() does, from an open file.

    Raises:
        StorageError: as read_features, or where there must be descriptors and are none.
    """
    keypoints = keypoints_of(file, name)
    group, count, of = file[name], len(keypoints), f"{file.filename}: {name}"

    def numbers(dataset: str, ndim: int = 1) -> np.ndarray | None:
        return read_array(group, dataset, ndim, of) if dataset in group else None

    def single(dataset: str, default: np.ndarray) -> torch.Tensor:
        values = numbers(dataset)
        values = default if values is None else values
        return torch.from_numpy(single_precision(values, f"{of}: its {dataset}"))

    has_global, pyramids = "global_descriptor" in group, numbers("pyramids")
    descriptors = numbers("descriptors", 2)
    descriptors = np.empty((0, count)) if descriptors is None else descriptors
    if needs_descriptors and count and not len(descriptors):
        raise StorageError(
            f"{file.filename}: has keypoints and no descriptors of {name}; give the features that "
            "were extracted."
        )
    return Features(
        keypoints=torch.from_numpy(keypoints),
        scores=single("scores", np.ones(count)),
        descriptors=_of_unit_length(np.ascontiguousarray(descriptors.T)),
        scales=single("scales", np.ones(count)),
        pyramids=None if pyramids is None else torch.from_numpy(pyramids.astype(np.int64)),
        global_descriptor=single("global_descriptor", np.empty(0)) if has_global else None,
    )


def descriptors_of(file: GuardedFile, name: str) -> torch.Tensor:
    """Descriptors (N, D) of one image, from a file that must have them."""
    return features_of(file, name, needs_descriptors=True).descriptors


def _of_unit_length(descriptors: np.ndarray) -> torch.Tensor:
    """Normalise whole numbers, which are a unit descriptor's times a scale; leave others alone."""
    if descriptors.dtype.kind == "f":
        return torch.from_numpy(descriptors)
    return torch.nn.functional.normalize(torch.from_numpy(descriptors.astype(np.float32)))


def read_keypoints(path: Path, name: str) -> np.ndarray:
    """Read keypoints as keypoints_of() does, from a file that is not open."""
    with open_h5(path) as file:
        return keypoints_of(file, name)


def keypoints_of(file: GuardedFile, name: str) -> np.ndarray:
    """Keypoints (N, 2) float32 of one image; of its other datasets only the lengths are read.

    Raises:
        StorageError: as read_features.
    """
    group = _group(file, name, "keypoints")
    shape = group["keypoints"].shape
    if len(shape) != 2 or shape[1] < 2:
        raise StorageError(
            f"{file.filename}: the keypoints of {name} are of shape {shape}, not N x 2; "
            "extract it again."
        )
    lengths = {"keypoints": shape[0]}
    for dataset, ndim in (("descriptors", 2), ("scores", 1), ("scales", 1), ("pyramids", 1)):
        if dataset in group:
            found = array_shape(group, dataset, ndim, f"{file.filename}: {name}")
            lengths[dataset] = found[-1]
    if len(set(lengths.values())) > 1:
        *first, last = (f"{length} {dataset}" for dataset, length in lengths.items())
        raise StorageError(
            f"{file.filename}: {name} has {', '.join(first)} and {last}; extract it again."
        )
    of = f"{file.filename}: {name}"
    return single_precision(read_array(group, "keypoints", 2, of)[:, :2], f"{of}: its keypoints")


def image_digests(file: GuardedFile, names: Iterable[str]) -> dict[str, int]:
    """CRC-32 of each image's keypoints, photograph and options, to tell features from others."""
    made_by = zlib.crc32(str(file.attrs.get("configuration")).encode())
    found = {}
    for name in names:
        source = zlib.crc32(repr(checksum_of(file, name)).encode(), made_by)
        found[name] = zlib.crc32(np.ascontiguousarray(keypoints_of(file, name)).data, source)
    return found


def read_image_size(path: Path, name: str) -> tuple[int, int]:
    """Size (w, h) of the image that the keypoints refer to."""
    with open_h5(path) as file:
        return image_size_of(file, name)


def image_size_of(file: GuardedFile, name: str) -> tuple[int, int]:
    """Read the size (w, h) of an image, from an open file."""
    found = _group(file, name, "image_size")
    size = read_array(found, "image_size", 1, f"{file.filename}: {name}").tolist()
    if len(size) != 2 or not all(1 <= edge < 2**31 for edge in size):
        raise StorageError(f"{file.filename}: {name} has no size of its image; extract it again.")
    return int(size[0]), int(size[1])


def read_global_descriptors(path: Path, names: Sequence[str]) -> np.ndarray:
    """Global descriptors (len(names), D), float32, ours or hloc's."""
    with open_h5(path) as file:
        found = [
            read_array(
                _group(file, name, "global_descriptor"), "global_descriptor", 1, f"{path}: {name}"
            )
            for name in names
        ]
    for name, values in zip(names, found, strict=True):
        if len(values) != len(found[0]):
            raise StorageError(
                f"{path}: global descriptors of {name} have {len(values)} numbers, others "
                f"{len(found[0])}; extract all images in the same way."
            )
    return single_precision(np.stack(found), f"{path}: its global descriptors")


def _group(file: GuardedFile, name: str, dataset: str) -> GuardedGroup:
    found = _record(file, name, dataset)
    if found is None:
        raise StorageError(f"{file.filename}: holds no {dataset} of {name}; extract it first.")
    return found


def _record(file: GuardedFile, key: str, dataset: str) -> GuardedGroup | None:
    """The group of that key, if it is one and holds such a dataset."""
    found = file.get(key)
    is_record = isinstance(found, GuardedGroup) and isinstance(found.get(dataset), GuardedDataset)
    return found if is_record else None


def name_key(name: str) -> str:
    """hloc's name of an image in the keys of pairs."""
    return name.replace("/", "-")


def pair_key(name0: str, name1: str, separator: str = "/") -> str:
    """hloc's key of a pair of images."""
    return separator.join((name_key(name0), name_key(name1)))


def matches_record(matches: Matches, num_keypoints0: int) -> Record:
    """hloc's dense form of one pair: the index in image 1 for each keypoint of image 0, or -1."""
    matches0 = np.full(num_keypoints0, -1, dtype=np.int32)
    scores0 = np.zeros(num_keypoints0, dtype=np.float16)
    pairs = matches.pairs.cpu().numpy()
    matches0[pairs[:, 0]] = pairs[:, 1]
    scores0[pairs[:, 0]] = matches.scores.cpu().numpy()
    return {"matches0": Value(matches0), "matching_scores0": Value(scores0)}


def read_matches(path: Path, name0: str, name1: str) -> Matches:
    """Matches from name0 to name1, stored in either order and with either separator.

    Raises:
        StorageError: if the pair is not in the file, or its matches and scores do not fit.
    """
    with open_h5(path) as file:
        return matches_of(file, name0, name1)


def holds_pair(file: GuardedFile, name0: str, name1: str) -> bool:
    """True if this pair was matched, in either order."""
    return any(key in file for key, _ in _keys(name0, name1))


def matches_of(file: GuardedFile, name0: str, name1: str) -> Matches:
    """Read matches as read_matches() does, from an open file."""
    keys = _keys(name0, name1)
    found = next((k for k in keys if _record(file, k[0], "matches0") is not None), None)
    if found is None:
        raise StorageError(
            f"{file.filename}: holds no matches of {name0} and {name1}; match that pair first."
        )
    key, is_reversed = found
    of, scores0 = f"{file.filename}: {key}", np.empty(0)
    matches0 = read_array(file[key], "matches0", 1, of).astype(np.int64)
    if "matching_scores0" in file[key]:
        scores0 = read_array(file[key], "matching_scores0", 1, of)
    if len(scores0) != len(matches0):
        raise StorageError(
            f"{file.filename}: {key} has {len(matches0)} matches0 and {len(scores0)} "
            "matching_scores0; match that pair again."
        )
    index0 = np.flatnonzero(matches0 >= 0)
    pairs = np.stack([index0, matches0[index0]], axis=1)
    return Matches(
        pairs=torch.from_numpy(pairs[:, ::-1].copy() if is_reversed else pairs),
        scores=torch.from_numpy(scores0[index0].astype(np.float32)),
    )


def _keys(name0: str, name1: str) -> Iterator[tuple[str, bool]]:
    for separator in ("/", "_"):  # hloc's, and its older one
        yield pair_key(name0, name1, separator), False
        yield pair_key(name1, name0, separator), True
