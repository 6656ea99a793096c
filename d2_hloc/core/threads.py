"""Work in threads, with results in order and a way out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


def a_few_ahead(work: Callable[[S], T], items: Iterable[S], workers: int) -> Generator[T]:
    """work(item) for each item, in order, with at most one item a worker begun or waiting.

    Items, and results, may be large: none is asked for long before it is worked on.
    """
    pool, pending = ThreadPoolExecutor(workers), deque[Future[T]]()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) == workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def free_memory() -> int:
    """Bytes of memory that are free, as far as the system tells; 0 where it does not."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0


@contextmanager
def one_thread_an_operation() -> Iterator[int]:
    """Limit torch's operations to a thread each, here and in threads begun here.

    Yields how many threads they had before.

    Threads that share small operations wait for each other after each: slow on a busy machine.
    """
    with threads_an_operation(1) as count:
        yield count


@contextmanager
def threads_an_operation(few: int) -> Iterator[int]:
    """Limit torch's operations to a few threads each, here and in threads begun here.

    Yields how many threads they had before.
    """
    count = torch.get_num_threads()
    torch.set_num_threads(few)
    try:
        yield count
    finally:
        torch.set_num_threads(count)
