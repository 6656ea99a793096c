"""Shards cover everything once, whatever an array counts from."""

from itertools import chain

import pytest

from d2_hloc.files.lock import Busy, FileLock
from d2_hloc.files.shards import (
    Shard,
    is_finished,
    note_items,
    shard_count,
    shard_path,
    staged_shard,
)


@pytest.mark.parametrize("length", [0, 1, 5, 16, 37])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_shards_are_runs_that_cover_the_items_once(length, count):
    items = list(range(length))
    parts = [shard.of(items) for shard in Shard.all(count)]
    assert list(chain(*parts)) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("first", [0, 1])
def test_arrays_may_count_from_zero_or_from_one(first):
    found = {Shard.parse(f"{k}/4") for k in range(first, first + 4)}
    assert found == set(Shard.all(4))


@pytest.mark.parametrize("text", ["5/4", "0/0", "-1/4", "3", "3/", "a/b", "1/10000", "3/4/5"])
def test_what_is_no_shard_is_one_sentence(text):
    with pytest.raises(ValueError, match=r"shard .*i/n"):
        Shard.parse(text)


def test_a_shard_is_finished_when_its_file_is_whole(tmp_path):
    output, shard = tmp_path / "features.h5", Shard(2, 3)
    assert shard_count(output) is None
    with staged_shard(output, shard, {}, "keypoints"):
        assert not is_finished(output, shard)
        assert shard_count(output) == 3
    assert is_finished(output, shard)
    assert shard_path(output, shard) == tmp_path / "features.h5.shards" / "0002-of-0003.h5"
    parts = shard_path(output, shard).with_name("0002-of-0003.h5.parts")
    parts.mkdir()
    assert not is_finished(output, shard)


def test_another_number_of_shards_is_refused(tmp_path):
    output = tmp_path / "features.h5"
    with staged_shard(output, Shard(1, 3), {}, "keypoints"):
        pass
    with (
        pytest.raises(ValueError, match=r"features\.h5\.shards: holds shards of 3, not of 4"),
        staged_shard(output, Shard(1, 4), {}, "keypoints"),
    ):
        pass
    shard_path(output, Shard(1, 4)).touch()
    with pytest.raises(ValueError, match="holds shards of 3 and of 4; delete those"):
        shard_count(output)


def test_one_process_at_a_time_works_on_a_shard(tmp_path):
    output, shard = tmp_path / "features.h5", Shard(1, 3)
    with (
        staged_shard(output, shard, {}, "keypoints"),
        pytest.raises(Busy, match="another run is at work"),
        staged_shard(output, shard, {}, "keypoints"),
    ):
        pass
    with FileLock(shard_path(output, shard).with_suffix(".lock")):
        pass


def test_shards_of_another_list_are_warned_of(tmp_path, caplog):
    output = tmp_path / "features.h5"
    for _ in range(2):
        note_items(output, ["b.jpg", "c.jpg"])
    assert not caplog.records
    note_items(output, ["a.jpg", "b.jpg", "c.jpg"])
    assert "was cut from another list (2 items there, 3 items now)" in caplog.text
