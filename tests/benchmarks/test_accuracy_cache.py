"""The file that papers share: written and read back; a pickle that does more is refused."""

import io
import os
import pickle

import numpy as np
import pytest
from hostile_pickles import BUFFER_AS_OBJECTS, BYTES_AS_OBJECTS

from d2_hloc.benchmarks.hpatches.shared_results import (
    AccuracyCache,
    CacheError,
    read_accuracy_cache,
    write_accuracy_cache,
)

CACHE = AccuracyCache(
    illumination={1: 0.5, 2: 1.5},
    viewpoint={1: 0.25, 2: 0.75},
    kinds=["i", "i", "v"],
    num_features=[100, 90, 80, 70, 60],
    num_matches=[50, 40, 30],
)


def test_comes_back_as_it_was_written(tmp_path):
    path = write_accuracy_cache(tmp_path / "cache.npy", CACHE)
    assert read_accuracy_cache(path) == CACHE


def test_is_what_the_authors_notebook_loads(tmp_path):
    path = write_accuracy_cache(tmp_path / "cache.npy", CACHE)
    i_err, v_err, (seq_type, n_feats, n_matches) = np.load(path, allow_pickle=True)
    assert [i_err[t] / 2 for t in np.arange(1, 3)] == [0.25, 0.75]
    assert v_err == {1: 0.25, 2: 0.75}
    assert np.sum(n_matches[seq_type == "i"]) == 90
    assert n_feats.mean() == 80


def test_a_file_as_the_notebook_writes_it_is_read(tmp_path):
    """Keys and sums are NumPy's there, as its np.arange and np.mean make them."""
    content = np.empty(3, dtype=object)
    content[0] = {t: np.float64(t) / 4 for t in np.arange(1, 4)}
    content[1] = {t: np.mean([0.0, 1.0]) for t in np.arange(1, 4)}
    content[2] = [np.array(["i", "v"]), np.array([7, 8, 9]), np.array([5, 6])]
    np.save(tmp_path / "cache.npy", content)
    found = read_accuracy_cache(tmp_path / "cache.npy")
    assert found.illumination == {1: 0.25, 2: 0.5, 3: 0.75}
    assert found.kinds == ["i", "v"]
    assert found.accuracy("iv", [1, 2]) == [0.375, 0.5]


def test_means_are_over_the_pairs_of_a_kind():
    assert CACHE.accuracy("i", [1, 2]) == [0.25, 0.75]
    assert CACHE.accuracy("v", [1, 2]) == [0.25, 0.75]
    assert CACHE.accuracy("iv", [2]) == [0.75]


class Evil:
    """Unpickles by calling something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_objects(path, *objects):
    content = np.empty(len(objects), dtype=object)
    content[:] = objects
    np.save(path, content, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    ("function", "name"), [(os.system, "system"), (eval, "eval"), (getattr, "getattr")]
)
def test_a_pickle_that_runs_code_is_refused(tmp_path, function, name):
    victim = tmp_path / "victim"
    victim.touch()
    call = {"system": f"rm {victim}", "eval": f"__import__('os').remove({str(victim)!r})"}
    evil = Evil(function, *((call[name],) if name in call else (1, "real")))
    path = write_objects(tmp_path / "cache.npy", {1: evil}, {}, [])
    with pytest.raises(CacheError, match=rf"cache\.npy: refused, since it asks for \w+\.{name}"):
        read_accuracy_cache(path)
    assert victim.exists()


@pytest.mark.parametrize("attack", [BYTES_AS_OBJECTS, BUFFER_AS_OBJECTS])
def test_bytes_are_never_taken_for_objects(tmp_path, attack):
    """They were followed as pointers, which ended the process."""
    path = write_objects(tmp_path / "cache.npy", {1: attack}, {}, [attack, attack, attack])
    with pytest.raises(CacheError, match=r"cache\.npy: "):
        read_accuracy_cache(path)


def test_what_is_no_cache_is_one_sentence(tmp_path):
    path = tmp_path / "cache.npy"
    with pytest.raises(CacheError, match=r"cache\.npy: cannot be read \(No such file"):
        read_accuracy_cache(path)
    path.write_bytes(b"not a cache")
    with pytest.raises(CacheError, match="is damaged, or not a cache"):
        read_accuracy_cache(path)
    np.save(path, np.zeros(3))
    with pytest.raises(CacheError, match="holds float64, not the objects of a cache"):
        read_accuracy_cache(path)
    write_objects(path, {}, {})
    with pytest.raises(CacheError, match="is damaged, or not a cache"):
        read_accuracy_cache(path)
    write_objects(path, {}, {}, [np.array(["i", "x"]), np.array([1]), np.array([1, 2])])
    with pytest.raises(CacheError, match=r"has 2 pairs, of the kinds \['i', 'x'\]"):
        read_accuracy_cache(path)


def test_a_cut_file_is_refused(tmp_path):
    path = write_accuracy_cache(tmp_path / "cache.npy", CACHE)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CacheError, match=r"cache\.npy: is damaged"):
        read_accuracy_cache(path)


def test_a_pickle_alone_is_not_read(tmp_path):
    path = tmp_path / "cache.npy"
    buffer = io.BytesIO()
    pickle.dump({"a": 1}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CacheError, match="is damaged, or not a cache"):
        read_accuracy_cache(path)
