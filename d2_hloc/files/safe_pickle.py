"""NumPy's files of pickled objects, read so that nothing in them can act or crash.

Python 2 and 3 and NumPy 1 and 2 write what is read here: arrays of numbers, of text, and of objects
that are None, numbers, text, bytes, lists, tuples, dictionaries and arrays.
"""

from __future__ import annotations

import io
import math
from typing import IO, Any

import numpy as np

from d2_hloc.files.pickle_interpreter import (
    MAX_NAME,
    PLAIN,
    SCALARS,
    PickledArray,
    PickleError,
    PickleInterpreter,
    PickleRefused,
    array_of_bytes,
    checked_shape,
)

Stream = IO[bytes] | io.BufferedIOBase  # a file in an archive is the latter when it runs
MAX_DEPTH = 8  # containers within each other
MAX_PICKLE = 1 << 28  # bytes
MAX_ARRAY = 1 << 30  # bytes of an array of plain numbers


def read_npy(file: Stream) -> np.ndarray:
    """Read a .npy file, or a member of an .npz.

    Raises:
        PickleRefused: if it is a pickle of anything else, or too large.
        PickleError: if it is damaged.
    """
    try:
        return _read_npy(file)
    except PickleError:
        raise
    except Exception as error:  # a damaged header or archive raises whatever it meets
        raise PickleError(f"it is damaged ({_first_line(error)})") from error


def _read_npy(file: Stream) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise PickleRefused(f"it is of NumPy's format {version}")
    is_first = version == (1, 0)
    lib = np.lib.format
    read_header = lib.read_array_header_1_0 if is_first else lib.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    if dtype == np.dtype(object):
        content = read_pickle(file.read(MAX_PICKLE + 1))
        if not isinstance(content, np.ndarray) or content.shape != shape:
            raise PickleError("its pickle is not the array of its header")
        return content
    if not PLAIN.fullmatch(dtype.str):
        raise PickleRefused(f"it holds {str(dtype)[:MAX_NAME]}")
    count = math.prod(checked_shape(shape)) * dtype.itemsize
    if count > MAX_ARRAY:
        raise PickleRefused(f"it holds {count} bytes")
    return array_of_bytes(file.read(count), dtype, shape, is_fortran)


def read_pickle(data: bytes) -> Any:
    """Return what a pickle holds.

    Raises:
        PickleRefused: if that is more than arrays and containers, or too much.
        PickleError: if it is damaged.
    """
    if len(data) > MAX_PICKLE:
        raise PickleRefused(f"it holds more than {MAX_PICKLE} bytes")
    try:
        return _Plain(4 * len(data)).of(PickleInterpreter().run(data))
    except PickleError:
        raise
    except Exception as error:  # a damaged pickle raises whatever it meets
        raise PickleError(f"its pickle is damaged ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


class _Plain:
    """Finished values: a tree of bounded depth and size, though a pickle may share and nest."""

    def __init__(self, budget: int) -> None:
        self._left = budget

    def of(self, value: Any, depth: int = MAX_DEPTH) -> Any:
        """Return a value with all arrays in it made."""
        self._left -= 1
        if type(value) in SCALARS:
            return value
        if depth == 0 or self._left < 0:
            raise PickleRefused("it is nested too deeply")
        if type(value) in (list, tuple):
            return type(value)(self.of(item, depth - 1) for item in value)
        if type(value) is dict:
            return {key: self.of(item, depth - 1) for key, item in value.items()}
        if type(value) is bytearray:
            return bytes(value)
        if type(value) is PickledArray and value.made is not None:
            return value.made
        if type(value) is PickledArray and value.items is not None:
            return self._objects(value.items, depth).reshape(value.shape)
        raise PickleRefused("it holds what is no array and no container")

    def _objects(self, items: list[Any], depth: int) -> np.ndarray:
        flat = np.empty(len(items), dtype=object)
        for k, item in enumerate(items):
            flat[k] = self.of(item, depth - 1)
        return flat
