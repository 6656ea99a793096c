"""Arrays of features and matches as they are read: of the right shape, finite, of no wrong index.

Numbers that are not finite match quietly and wrongly, and COLMAP crashes on an index that no
keypoint has.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from d2_hloc.core.text import parse_json
from d2_hloc.files.hdf5_datasets import GuardedDataset
from d2_hloc.files.hdf5_guard import GuardedGroup


class StorageError(ValueError):
    """A file that cannot be used; the text names the file and the remedy."""


def read_array(group: GuardedGroup, dataset: str, ndim: int, of: str) -> np.ndarray:
    """Read a dataset of finite numbers, in the machine's byte order.

    Args:
        group: holds the dataset.
        dataset: its name.
        ndim: number of dimensions that it must have.
        of: what it is of, such as 'features.h5: a.jpg'; begins the text of an error.

    Returns:
        The numbers, those of floating point in half, single or double precision.

    Raises:
        StorageError: if it is no such dataset, or a number is not finite.
    """
    array_shape(group, dataset, ndim, of)
    values = group[dataset][()]
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if not np.isfinite(values).all():
        raise StorageError(
            f"{of}: its {dataset} are not all finite numbers; extract it again, or leave it out."
        )
    return values


def array_shape(group: GuardedGroup, dataset: str, ndim: int, of: str) -> tuple[int, ...]:
    """Look up the shape of a dataset.

    Raises:
        StorageError: if it is no dataset, or not of so many dimensions.
    """
    found = group[dataset]
    if not isinstance(found, GuardedDataset) or found.ndim != ndim:
        shape = f"of shape {found.shape}" if isinstance(found, GuardedDataset) else "a group"
        raise StorageError(
            f"{of}: its {dataset} are {shape}, not of {ndim} dimensions; extract it again."
        )
    return found.shape


def single_precision(values: np.ndarray, what: str) -> np.ndarray:
    """Convert numbers to single precision.

    Raises:
        StorageError: if one is too large for it; the text begins with `what` they are.
    """
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    if not np.isfinite(found).all():
        raise StorageError(f"{what} are too large; extract it again, or leave it out.")
    return found


def check_matches(pairs: np.ndarray, count0: int, count1: int, where: str) -> None:
    """Raise StorageError for an index of matches (K, 2) that no keypoint has.

    `where` names the file and the pair of images, of `count0` and `count1` keypoints.
    """
    if len(pairs) and (pairs.min() < 0 or (pairs.max(axis=0) >= (count0, count1)).any()):
        raise StorageError(
            f"{where} are not matches of these features ({count0} and {count1} keypoints); "
            "delete the file and match again."
        )


def read_json(text: Any, what: str) -> dict[str, Any]:
    """Read a dictionary from an attribute's text.

    Raises:
        StorageError: if it is none; the text begins with `what` it is.
    """
    try:
        return parse_json(text)
    except (TypeError, ValueError) as error:
        raise StorageError(f"{what} cannot be read; make it again.") from error
