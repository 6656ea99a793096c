"""Values that are made when they are first asked for, the least used of which make room."""

from __future__ import annotations

import ctypes
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar, runtime_checkable

from cachetools import LRUCache


@runtime_checkable
class Sized(Protocol):
    """A value that says how much memory it takes."""

    @property
    def nbytes(self) -> int: ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Sized)


class BoundedCache(Generic[K, V]):
    """Holds at most `capacity` bytes, and yet `at_least` values, however large they are.

    Several threads may share it: each value is made by one of them, while others make others.
    """

    def __init__(self, make: Callable[[K], V], capacity: int, at_least: int = 1) -> None:
        self._make, self._capacity, self._at_least = make, capacity, at_least
        self._held: LRUCache[K, V] = LRUCache(math.inf, getsizeof=lambda value: value.nbytes)
        self._lock = threading.Lock()
        self._making: defaultdict[K, threading.Lock] = defaultdict(threading.Lock)

    def __getitem__(self, key: K) -> V:
        with self._lock:
            making = self._making[key]
        with making:
            with self._lock:
                if key in self._held:
                    return self._held[key]
            value = self._make(key)
            with self._lock:
                self._held[key] = value
                while self._held.currsize > self._capacity and len(self._held) > self._at_least:
                    self._held.popitem()
        return value


def give_memory_back() -> None:
    """Return memory that is no longer used to the system, where the C library can.

    Otherwise it keeps what lies below anything that is still used, such as gigabytes of maps.
    """
    with suppress(OSError, AttributeError, TypeError):  # of other libraries than glibc
        ctypes.CDLL(None).malloc_trim(0)
