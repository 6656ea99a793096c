"""MATLAB's files, walked before SciPy reads them: a wrong type in one would end the process."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import scipy.io

HEADER = 128  # bytes
MOST = 1 << 30  # bytes that a file may unpack to
DEEPEST = 8  # cells and structs within each other
MATRIX, COMPRESSED = 14, 15
SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}  # bytes of a number, by type
TEXTS = (1, 2, 4, 16, 17, 18)  # types of characters
CELL, STRUCT, CHARACTERS, NUMBERS = 1, 2, 4, range(6, 16)  # classes of arrays
IS_COMPLEX = 0x800
NEWER = 2  # version of files that are HDF5

Element = tuple[int, bytes]


class MatError(ValueError):
    """A file that SciPy cannot be trusted with; the text says why, and not where."""


def load_mat(path: Path, **options: Any) -> dict[str, Any]:
    """Variables of a file of MATLAB 5 as scipy.io.loadmat gives them, with its `options`.

    Raises:
        NotImplementedError: for a file of MATLAB 7.3.
        MatError: if it is damaged, or holds more than numbers, text, cells and structs.
    """
    data = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(data[126:HEADER])
    if order is None:
        raise MatError("it has no header of MATLAB 5")
    if struct.unpack_from(order + "H", data, 124)[0] >> 8 == NEWER:
        raise NotImplementedError("MATLAB 7.3")
    try:
        plain = b"".join(_Walk(order).plain(data))
    except (struct.error, zlib.error, IndexError) as error:
        raise MatError("it is cut short") from error
    return scipy.io.loadmat(io.BytesIO(data[:HEADER] + plain), **options)


class _Walk:
    """A walk through the elements of a file; `order` is that of its bytes."""

    def __init__(self, order: str) -> None:
        self._order, self._left = order, MOST

    def plain(self, data: bytes) -> Iterator[bytes]:
        """Yield the checked variables of a file, none compressed."""
        for kind, content in self._elements(data[HEADER:], is_padded=False):
            if kind == COMPRESSED:
                unpacked = zlib.decompressobj().decompress(content, self._left)
                ((kind, content),) = self._elements(unpacked, is_padded=False)
            if kind != MATRIX:
                raise MatError("it holds what is no variable")
            self._left -= len(content)
            if self._left <= 0:
                raise MatError(f"it holds more than {MOST} bytes")
            self._check(content, DEEPEST)
            yield struct.pack(self._order + "II", MATRIX, len(content)) + content

    def _elements(self, data: bytes, is_padded: bool = True) -> Iterator[Element]:
        at = 0
        while at < len(data):
            kind, size = struct.unpack_from(self._order + "II", data, at)
            start, end = at + 8, at + 8 + size
            at = end + (-size % 8 if is_padded and kind != COMPRESSED else 0)
            if kind >> 16:  # four bytes or fewer stand in the tag
                size, kind = kind >> 16, kind & 0xFFFF
                start, at = start - 4, start
                end = start + size
                if size > 4:
                    raise MatError("an element is too long for its tag")
            if end > len(data):
                raise MatError("it is cut short")
            yield kind, data[start:end]

    def _check(self, content: bytes, depth: int) -> None:
        """Raise MatError for an array that is not what its head says."""
        if not content:  # an empty array
            return
        if depth == 0:
            raise MatError("it is nested too deeply")
        (_, flags), (_, dims), (_, _), *parts = self._elements(content)
        flag = struct.unpack_from(self._order + "I", flags)[0]
        shape = struct.unpack(f"{self._order}{len(dims) // 4}i", dims)
        if not 2 <= len(shape) <= 8 or min(shape) < 0:
            raise MatError("an array has no right shape")
        kind, count = flag & 0xFF, math.prod(shape)
        if kind in NUMBERS:
            self._check_numbers(parts, count, 2 if flag & IS_COMPLEX else 1)
        elif kind == CHARACTERS:
            if len(parts) != 1 or parts[0][0] not in TEXTS:
                raise MatError("its text is none")
        elif kind in (CELL, STRUCT):
            children = parts if kind == CELL else self._fields(parts)
            fields = 1 if kind == CELL else len(parts[1][1]) // self._name_length(parts)
            if len(children) != count * fields or any(k != MATRIX for k, _ in children):
                raise MatError("it has not the values that it says")
            for _, child in children:
                self._check(child, depth - 1)
        else:
            raise MatError("it holds more than numbers, text, cells and structs")

    def _check_numbers(self, parts: list[Element], count: int, of: int) -> None:
        right = [kind in SIZES and len(data) == count * SIZES[kind] for kind, data in parts]
        if len(parts) != of or not all(right):
            raise MatError("it has not the numbers that it says")

    def _fields(self, parts: list[Element]) -> list[Element]:
        (_, _), (_, names), *children = parts
        if len(names) % self._name_length(parts):
            raise MatError("the names of its fields are cut short")
        return children

    def _name_length(self, parts: list[Element]) -> int:
        length = struct.unpack(self._order + "i", parts[0][1])[0]
        if not 1 <= length <= 64:
            raise MatError("the names of its fields have no length")
        return length
