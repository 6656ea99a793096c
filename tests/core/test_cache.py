"""The cache holds as many bytes as it may, the most used of them, and makes each value once."""

import threading

import numpy as np

from d2_hloc.core.cache import BoundedCache


def made_by(cache_options):
    made = []

    def make(size):
        made.append(size)
        return np.zeros(size, np.uint8)

    return BoundedCache(make, **cache_options), made


def test_the_least_used_makes_room():
    cache, made = made_by({"capacity": 10})
    for size in (4, 5, 4, 6, 4, 5):
        assert cache[size].nbytes == size
    assert made == [4, 5, 6, 5]


def test_some_are_held_however_large_they_are():
    cache, made = made_by({"capacity": 1, "at_least": 2})
    for size in (100, 200, 100, 200, 300, 200, 100):
        assert cache[size].nbytes == size
    assert made == [100, 200, 300, 100]


def test_threads_make_a_value_once_and_different_ones_at_the_same_time():
    made, both = [], threading.Barrier(2, timeout=10)

    def make(size):
        both.wait()
        made.append(size)
        return np.zeros(size, np.uint8)

    cache = BoundedCache(make, 100)
    threads = [threading.Thread(target=lambda k=k: cache[1 + k % 2]) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [1, 2]
