"""Work in threads, with results in order and a way out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


def in_threads(work: Callable[[S], T], items: Iterable[S], workers: int) -> Generator[T]:
    """work(item) for each item, in order; what is not begun when the consumer stops is left."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread_an_operation() -> Iterator[int]:
    """Limit torch's operations to a thread each, here and in threads begun here.

    Yields how many threads they had before.

    Threads that share small operations wait for each other after each: slow on a busy machine.
    """
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield count
    finally:
        torch.set_num_threads(count)
