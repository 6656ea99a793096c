"""Datasets and attributes of HDF5 files: plain numbers and text, of a size that can be meant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

LARGEST = 2 << 30  # bytes of a dataset
SMALL = 64 << 20  # bytes; up to that a dataset may be packed as much as it likes
PACKED = 256  # times; depth maps and descriptors are packed less by far
NUMBERS = h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM  # the last holds yes and no


class Refused(ValueError):
    """An HDF5 file that holds what is not followed; the text names the file and the place."""


class Attributes(Mapping[str, Any]):
    """Attributes of a file, group or dataset: numbers and text."""

    def __init__(self, item: h5py.HLObject, where: str) -> None:
        self._raw, self._where = item.attrs, where

    def __getitem__(self, name: str) -> Any:
        """Read an attribute.

        Raises:
            KeyError: if there is none of that name.
            Refused: if it is neither numbers nor text, or cannot be read.
        """
        with reading(lambda: self._where):
            is_there = name in self._raw
        if not is_there:
            raise KeyError(name)
        try:
            kind = self._raw.get_id(name).get_type().get_class()
            value = self._raw[name] if kind in (*NUMBERS, h5py.h5t.STRING) else None
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise Refused(f"{self._where}: its attribute {name} cannot be read.") from error
        if isinstance(value, str | bytes) or np.asarray(value).dtype.kind in "biufSU":
            return value
        raise Refused(f"{self._where}: its attribute {name} is neither numbers nor text.")

    def __iter__(self) -> Iterator[str]:
        with reading(lambda: self._where):
            return iter(list(self._raw))

    def __len__(self) -> int:
        with reading(lambda: self._where):
            return len(self._raw)


class GuardedDataset:
    """A dataset of plain numbers that are stored in its file, and as many as can be meant.

    Raises:
        Refused: for any other dataset.
    """

    def __init__(self, dataset: h5py.h5d.DatasetID, where: Callable[[], str]) -> None:
        problem = dataset_problem(dataset)
        if problem is not None:
            raise Refused(f"{where()}: {problem}, so it is not read.")
        self._id, self._where = dataset, where

    @property
    def _raw(self) -> h5py.Dataset:
        return h5py.Dataset(self._id)

    @property
    def attrs(self) -> Attributes:
        """The dataset's attributes."""
        return Attributes(self._raw, self._where())

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows, columns and so on."""
        return self._id.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """The type of the numbers."""
        return self._id.dtype

    @property
    def nbytes(self) -> int:
        """The size of the numbers, in bytes."""
        return self._raw.nbytes

    def __len__(self) -> int:
        if not self.shape:
            raise Refused(f"{self._where()}: is one number, where a row of them is expected.")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """Read numbers.

        Raises:
            Refused: if they are damaged, or packed by a filter that is not installed.
        """
        try:
            return self._raw[index]
        except (OSError, RuntimeError, MemoryError) as error:
            reason = " ".join(str(error).split())
            raise Refused(f"{self._where()}: cannot be read ({reason}); make it again.") from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[()], dtype=dtype)


def dataset_problem(dataset: h5py.h5d.DatasetID) -> str | None:
    """Say why the numbers of a dataset are not read; None where they are.

    Its values are not looked at.
    """
    layout = dataset.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        return "takes its numbers from another file"
    kind, space = dataset.get_type(), dataset.get_space()
    if kind.get_class() not in NUMBERS or space.get_simple_extent_type() == h5py.h5s.NULL:
        return "does not hold plain numbers"
    try:
        dtype = kind.dtype
    except (TypeError, ValueError):  # of a width that NumPy does not have
        dtype = None
    if dtype is None or dtype.kind not in "biuf":
        return "does not hold plain numbers"
    size = math.prod(space.shape) * dtype.itemsize
    if size > LARGEST:
        return f"says that it holds {size} bytes, more than {LARGEST}"
    if size > SMALL and size > PACKED * dataset.get_storage_size():
        return f"says that it holds {size} bytes, packed more than {PACKED} times"
    return None


@contextmanager
def reading(where: Callable[[], str]) -> Iterator[None]:
    """Say in one sentence that something in a file is damaged; `where` names it."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise Refused(f"{where()}: is damaged; get the file anew, or make it again.") from error
