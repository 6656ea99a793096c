"""Results come in order, and a consumer that stops leaves the rest undone."""

import time

import pytest
import torch

from d2_hloc.core.threads import a_few_ahead, in_threads, one_thread_an_operation


def test_results_come_in_order():
    delays = [0.03, 0.0, 0.02, 0.01]
    assert list(in_threads(lambda d: (time.sleep(d), d)[1], delays, 4)) == delays


def test_errors_reach_the_consumer():
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda n: 1 / n, [1, 0, 1], 2))


def test_what_is_not_begun_is_left():
    begun = []

    def work(number):
        begun.append(number)
        time.sleep(0.02)

    results = in_threads(work, range(50), 1)
    next(results)
    results.close()
    assert len(begun) < 10


def test_few_items_are_asked_for_before_they_are_worked_on():
    asked, done = [], []

    def items():
        for k in range(9):
            asked.append(k)
            yield k

    for k in a_few_ahead(lambda k: (time.sleep(0.01), k)[1], items(), 3):
        done.append(k)
        assert len(asked) <= len(done) + 2
    assert done == list(range(9))
    assert list(a_few_ahead(abs, [-1], 4)) == [1]
    assert list(a_few_ahead(abs, [], 4)) == []
    results = a_few_ahead(lambda n: 1 / n, [1, 0, 1], 1)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_operations_in_new_threads_have_one_thread_each():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with one_thread_an_operation() as count:
        inside = list(in_threads(lambda _: torch.get_num_threads(), range(2), 2))
    assert (count, inside, torch.get_num_threads()) == (3, [1, 1], 3)
    torch.set_num_threads(before)
