"""Values that are made when they are first asked for, the least used of which make room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What says how much memory it takes."""

    @property
    def nbytes(self) -> int: ...


V = TypeVar("V", bound=Sized)


class BoundedCache(Generic[V]):
    """Holds at most `capacity` bytes, and yet `at_least` values, however large they are."""

    def __init__(self, make: Callable[[str], V], capacity: int, at_least: int = 1) -> None:
        self._make, self._capacity, self._at_least = make, capacity, at_least
        self._held: OrderedDict[str, V] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, key: str) -> V:
        if key not in self._held:
            self._held[key] = self._make(key)
            self._bytes += self._held[key].nbytes
        self._held.move_to_end(key)
        found = self._held[key]
        while self._bytes > self._capacity and len(self._held) > self._at_least:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
        return found
