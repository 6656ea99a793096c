"""Records are whole or not there, through kills, full disks and damage; a rerun goes on."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import namedtuple

import h5py
import numpy as np
import pytest

from d2_hloc.files import staged_h5
from d2_hloc.files.atomic import DiskFull, write_atomically
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.files.lock import Busy
from d2_hloc.files.provenance import ConfigurationChanged, differences
from d2_hloc.files.staged_h5 import Staged, Value

CONFIGURATION = {"feature": "d2net", "d2net": {"scales": [0.5, 1.0], "max_keypoints": None}}
KEYS = [f"db/{k % 3}/image {k}.jpg" for k in range(12)]
MARKER = "keypoints"


def record_of(key):
    """A record that says whose it is; some are empty."""
    k = KEYS.index(key)
    keypoints = np.arange(2.0 * k, dtype=np.float32).reshape(k, 2) + k
    return {
        "keypoints": Value(keypoints, {"uncertainty": 2.0 + k}),
        "scores": Value(np.full(k, k, np.float16)),
        "image_size": Value(np.array([640 + k, 480])),
    }


def write_all(path, keys=KEYS, before_each=lambda _: None, configuration=CONFIGURATION):
    """A step as the package's steps are: what is done is left alone."""
    with Staged(path, configuration, MARKER) as staged:
        for key in keys:
            if key not in staged.done:
                before_each(key)
                staged.add(key, record_of(key))


def contents(path):
    """Everything that an HDF5 file holds."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = (item.dtype, item[()].tolist(), dict(item.attrs))

    with h5py.File(path, "r") as file:
        file.visititems(visit)
        return found, {k: json.loads(v) for k, v in file.attrs.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "features.h5"
    write_all(path)
    return contents(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "features.h5"


@pytest.fixture
def eager(monkeypatch):
    """Every record goes to a part file at once."""
    monkeypatch.setattr(staged_h5, "PART_SECONDS", -1.0)


def assert_whole(path, undisturbed):
    assert contents(path) == undisturbed
    assert [p.name for p in path.parent.iterdir()] == ["features.h5"]  # no parts, nothing half


def test_an_undisturbed_run_holds_every_record_and_its_configuration(undisturbed):
    datasets, attributes = undisturbed
    assert {name.rpartition("/")[0] for name in datasets} == set(KEYS)
    assert datasets[f"{KEYS[2]}/keypoints"] == (np.float32, [[2, 3], [4, 5]], {"uncertainty": 4.0})
    assert datasets[f"{KEYS[0]}/keypoints"] == (np.float32, [], {"uncertainty": 2.0})
    assert attributes == {"configuration": CONFIGURATION, "failures": {}}


def test_records_in_many_parts_make_the_same_file(path, undisturbed, eager):
    write_all(path)
    assert_whole(path, undisturbed)


def test_large_records_are_not_kept_in_memory(path, monkeypatch):
    monkeypatch.setattr(staged_h5, "PART_BYTES", 1000)
    with Staged(path, {}, MARKER) as staged:
        for k in range(4):
            staged.add(str(k), {MARKER: Value(np.zeros(300, np.uint8))})
        assert staged.done == {"0", "1", "2", "3"}  # 4 x 300 bytes are more than 1000


def test_no_records_make_an_empty_file(path):
    write_all(path, [])
    assert contents(path) == ({}, {"configuration": CONFIGURATION, "failures": {}})


def test_failures_of_the_run_are_noted(path):
    with Staged(path, {}, MARKER) as staged:
        staged.failures["a.jpg"] = "too small"
    assert contents(path)[1]["failures"] == {"a.jpg": "too small"}


def test_what_is_done_is_not_asked_for_again(path, undisturbed):
    write_all(path, KEYS[:5])
    asked = []
    write_all(path, before_each=asked.append)
    assert asked == KEYS[5:]
    assert_whole(path, undisturbed)


def test_a_rerun_of_a_finished_file_changes_nothing(path, undisturbed):
    write_all(path)
    before = path.stat()
    write_all(path)
    assert_whole(path, undisturbed)
    assert path.stat().st_ino == before.st_ino  # not even copied


def test_a_group_without_the_marker_does_not_count_as_done(path):
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["a.jpg/keypoints"] = np.zeros((1, 2))
        file["b.jpg/scores"] = np.zeros(1)
        file.create_group("c.jpg/keypoints")  # of the name, but no dataset
    with GuardedFile(path) as file:
        assert file.keys_with(MARKER) == {"a.jpg"}
        assert file.keys_with(MARKER, "scores") == {"a.jpg", "b.jpg"}


def test_a_second_process_at_one_file_is_told_from_the_start(path):
    with staged_h5.OutputLock(path):
        with pytest.raises(Busy, match=r"features\.h5: another run is at work in it"):
            write_all(path)
        assert [p.name for p in path.parent.iterdir()] == ["features.h5.lock"]
    write_all(path)
    assert [p.name for p in path.parent.iterdir()] == ["features.h5"]


def test_a_file_is_let_go_of_after_an_error(path):
    with pytest.raises(KeyboardInterrupt), Staged(path, {}, MARKER):
        raise KeyboardInterrupt
    write_all(path)
    with pytest.raises(ConfigurationChanged), Staged(path, {"other": 1}, MARKER):
        pass
    with staged_h5.OutputLock(path):
        pass


# Interruptions


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, RuntimeError])
def test_an_interruption_keeps_what_was_done(path, undisturbed, error):
    def interrupt(key):
        if key == KEYS[7]:
            raise error

    with pytest.raises(error):
        write_all(path, before_each=interrupt)
    assert not path.exists()
    asked = []
    write_all(path, before_each=asked.append)
    assert asked == KEYS[7:]
    assert_whole(path, undisturbed)


def in_child(function, *args):
    """Start a function in a process of its own, without the time to import anything."""
    child = multiprocessing.get_context("fork").Process(target=function, args=args)
    child.start()
    return child


def write_slowly(path):
    staged_h5.PART_SECONDS = -1.0
    write_all(path, before_each=lambda _: time.sleep(0.003))


def test_kills_at_random_moments_lose_and_damage_nothing(path, undisturbed):
    random.seed(0)
    kills = 0
    for _ in range(30):
        child = in_child(write_slowly, path)
        child.join(random.uniform(0.002, 0.03))
        child.kill()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        kills += 1
        if path.exists():
            contents(path)  # opens: it never is half-written
    assert kills > 0
    write_all(path)
    assert_whole(path, undisturbed)


def write_until_event(path, number, keys):
    """Write, and be killed at the number-th touch of the file system."""
    staged_h5.PART_SECONDS = -1.0
    left = number

    def hook(event, _):
        nonlocal left
        if event.split(".")[0] in ("open", "os", "shutil"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    write_all(path, keys)


def test_a_kill_at_any_touch_of_the_file_system_loses_and_damages_nothing(path):
    write_all(path, KEYS[:3])
    expected = contents(path)
    for number in range(1, 500):
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        child = in_child(write_until_event, path, number, KEYS[:3])
        child.join()
        write_all(path, KEYS[:3])
        assert_whole(path, expected)
        if child.exitcode == 0:
            break
    assert child.exitcode == 0
    assert number > 20


def test_a_kill_while_records_are_added_to_a_finished_file_keeps_the_old_ones(path, undisturbed):
    write_all(path, KEYS[:9])
    before = contents(path)
    for number in (3, 6, 9, 10, 11, 12):
        child = in_child(write_until_event, path, number, KEYS)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        datasets, _ = contents(path)
        assert datasets.items() >= before[0].items()
    write_all(path)
    assert_whole(path, undisturbed)


def test_a_merge_that_was_cut_off_is_begun_anew(path, undisturbed):
    path.parent.mkdir()
    path.with_name("features.h5.0123abcd.writing").write_bytes(b"half a file")
    write_all(path)
    assert_whole(path, undisturbed)


# Configurations


def test_another_configuration_stops_and_both_values_are_shown(path):
    write_all(path)
    other = {"feature": "d2net", "d2net": {"scales": [1.0], "max_keypoints": None}}
    with pytest.raises(ConfigurationChanged) as error:
        write_all(path, configuration=other)
    assert str(error.value) == (
        f"{path}: was made with another configuration. "
        'There: {"d2net": {"scales": [0.5, 1.0]}}. Now: {"d2net": {"scales": [1.0]}}. '
        "Choose another output."
    )


def test_another_configuration_stops_at_parts_too_and_leaves_them(path, undisturbed):
    with pytest.raises(KeyboardInterrupt):
        write_all(path, before_each=interrupt_at(KEYS[7]))
    with pytest.raises(ConfigurationChanged, match=r'parts: .*There: \{"feature": "d2net"\}\. Now'):
        write_all(path, configuration=CONFIGURATION | {"feature": "sift"})
    write_all(path)
    assert_whole(path, undisturbed)


def interrupt_at(key):
    def interrupt(k):
        if k == key:
            raise KeyboardInterrupt

    return interrupt


def test_parts_whose_configuration_is_unknown_are_made_again(path, undisturbed):
    """A kill while the parts are being deleted can leave some without it."""
    with pytest.raises(KeyboardInterrupt):
        write_all(path, before_each=interrupt_at(KEYS[7]))
    (path.with_name("features.h5.parts") / "configuration.json").unlink()
    asked = []
    write_all(path, before_each=asked.append)
    assert asked == KEYS
    assert_whole(path, undisturbed)


def test_a_file_without_a_configuration_is_of_another_one(path):
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["a.jpg/keypoints"] = np.zeros((1, 2))
    with pytest.raises(ConfigurationChanged, match=r"features\.h5: was made with another"):
        write_all(path)
    with h5py.File(path, "r") as file:
        assert list(file) == ["a.jpg"]


def test_tuples_and_lists_are_the_same_configuration(path):
    write_all(path, configuration={"scales": (0.5, 1)})
    write_all(path, configuration={"scales": [0.5, 1]})


def test_differences_are_shown_alone_and_at_any_depth():
    old = {"a": 1, "b": {"c": 2, "d": 3}, "e": 4}
    new = {"a": 1, "b": {"c": 2, "d": 5}, "f": 6}
    expected_old = {"b": {"d": 3}, "e": 4, "f": None}
    assert differences(old, new) == (expected_old, {"b": {"d": 5}, "e": None, "f": 6})
    assert differences(old, old) == ({}, {})


# Damage


def damaged(data, how):
    return {
        "empty": b"",
        "half": data[: len(data) // 2],
        "other": b"no HDF5",
        "zeros": data[:96] + bytes(len(data) - 96),  # an intact head with nothing behind it
    }[how]


@pytest.mark.parametrize("damage", ["empty", "half", "other", "zeros"])
def test_a_damaged_part_is_made_again(path, undisturbed, eager, damage, caplog):
    with pytest.raises(KeyboardInterrupt):
        write_all(path, before_each=interrupt_at(KEYS[7]))
    part = sorted(path.with_name("features.h5.parts").glob("*.h5"))[4]
    part.write_bytes(damaged(part.read_bytes(), damage))
    asked = []
    write_all(path, before_each=asked.append)
    assert asked == [KEYS[4], *KEYS[7:]]
    assert "is damaged; its records are made again" in caplog.text
    assert_whole(path, undisturbed)


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_of_a_part_reaches_the_file(path, undisturbed, eager, seed):
    """Wherever a block of a part is lost, a rerun makes its record again."""
    randomly = np.random.default_rng(seed)
    for _ in range(12):
        shutil.rmtree(path.parent, ignore_errors=True)
        with pytest.raises(KeyboardInterrupt):
            write_all(path, before_each=interrupt_at(KEYS[3]))
        (part, *_) = path.with_name("features.h5.parts").glob("*.h5")
        data = np.fromfile(part, np.uint8)
        start = randomly.integers(len(data))
        data[start : start + 64] ^= np.uint8(randomly.integers(1, 256))
        data.tofile(part)
        write_all(path)
        assert_whole(path, undisturbed)


@pytest.mark.parametrize("damage", ["empty", "half", "other", "zeros"])
def test_a_damaged_file_is_named_and_left(path, damage):
    write_all(path)
    path.write_bytes(damaged(path.read_bytes(), damage))
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"features\.h5: is damaged .*; delete it and run again\."):
        write_all(path)
    assert path.read_bytes() == content


# A full disk


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def assert_full(path, **options):
    with pytest.raises(DiskFull) as error:
        write_all(path, **options)
    assert str(error.value) == (
        f"{path}: the disk is full; free some space and run again, it goes on from here."
    )


def test_a_disk_that_fills_up_is_one_sentence_and_a_rerun_goes_on(
    path, undisturbed, eager, monkeypatch
):
    def fill(key):
        if key == KEYS[7]:
            monkeypatch.setattr(staged_h5.os, "fsync", full_disk)

    assert_full(path, before_each=fill)
    parts = path.with_name("features.h5.parts")
    assert not list(parts.glob("*.writing"))  # half a file would only take space
    assert len(list(parts.glob("*.h5"))) == 7
    monkeypatch.undo()
    asked = []
    write_all(path, before_each=asked.append)
    assert asked == KEYS[7:]
    assert_whole(path, undisturbed)


def test_a_disk_that_is_full_from_the_start_is_one_sentence(path, monkeypatch):
    monkeypatch.setattr(staged_h5.os, "fsync", full_disk)
    assert_full(path)


def test_a_disk_without_space_for_the_whole_is_one_sentence(path, undisturbed, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(staged_h5.shutil, "disk_usage", lambda _: Usage(100, 100, 0))
    assert_full(path)
    assert not path.exists()
    monkeypatch.undo()
    write_all(path, before_each=lambda key: pytest.fail(f"{key} was done already"))
    assert_whole(path, undisturbed)


def test_a_disk_that_fills_up_during_the_merge_leaves_the_old_file(path, undisturbed, monkeypatch):
    write_all(path, KEYS[:5])
    before = contents(path)
    monkeypatch.setattr(staged_h5.shutil, "copyfile", full_disk)
    assert_full(path)
    assert contents(path) == before
    monkeypatch.undo()
    write_all(path, before_each=lambda key: pytest.fail(f"{key} was done already"))
    assert_whole(path, undisturbed)


def test_another_error_of_the_disk_is_not_called_full(path, monkeypatch):
    def broken(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(staged_h5.os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error") as error:
        write_all(path)
    assert not isinstance(error.value, DiskFull)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "poses.txt"
    write_atomically(target, b"old")
    monkeypatch.setattr(staged_h5.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["poses.txt"]
    monkeypatch.undo()
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
