"""Results by key: kept through stops, not made twice, never mixed with another configuration's."""

import json
import math
from dataclasses import dataclass

import pytest

from d2_hloc.files import result_store
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.files.result_store import ResultStore


@dataclass(frozen=True, kw_only=True)
class Part:
    numbers: tuple[float, ...] | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Thing:
    name: str
    parts: tuple[Part, ...]
    error: float = math.inf


def store(path, **configuration):
    return ResultStore(path, configuration, Thing, lambda thing: thing.name, "things")


def make(name):
    return Thing(name=name, parts=(Part(numbers=(1.0, 2.5)), Part(numbers=None, note=name)))


def items(*names):
    return {name: name for name in names}


def test_results_come_back_as_they_were_and_in_the_order_asked(tmp_path):
    made = store(tmp_path / "a.json", a=1).complete(items("x", "y"), make, "make", "thing")
    again = store(tmp_path / "a.json", a=1)
    found = again.complete(items("y", "z", "x"), make, "make", "thing")
    assert [thing.name for thing in found] == ["y", "z", "x"]
    assert [found[2], found[0]] == made
    assert found[0].error == math.inf


def test_only_what_is_missing_is_made(tmp_path):
    asked = []

    def counted(name):
        asked.append(name)
        return make(name)

    store(tmp_path / "a.json").complete(items("x", "y"), counted, "make", "thing")
    store(tmp_path / "a.json").complete(items("x", "y", "z"), counted, "make", "thing", workers=3)
    assert asked == ["x", "y", "z"]


@pytest.mark.parametrize("workers", [1, 3])
def test_what_was_made_before_a_stop_is_kept(tmp_path, workers):
    def stopped(name):
        if name == "z":
            raise KeyboardInterrupt
        return make(name)

    with pytest.raises(KeyboardInterrupt):
        store(tmp_path / "a.json").complete(items("x", "y", "z"), stopped, "make", "thing", workers)
    assert set(store(tmp_path / "a.json").found) == {"x", "y"}


def test_the_file_is_written_while_the_work_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(result_store, "SAVE_SECONDS", -1.0)
    held = []

    def looking(name):
        path = tmp_path / "a.json"
        held.append(len(json.loads(path.read_text())["things"]) if path.exists() else None)
        return make(name)

    store(tmp_path / "a.json").complete(items("x", "y", "z"), looking, "make", "thing")
    assert held == [None, 1, 2]


def test_another_configuration_stops_and_shows_both(tmp_path):
    store(tmp_path / "a.json", options={"a": 1, "b": 2}).complete(items("x"), make, "make", "thing")
    expected = r'a\.json: was made .* There: {"options": {"b": 2}}. Now: {"options": {"b": 3}}.'
    with pytest.raises(ConfigurationChanged, match=expected):
        store(tmp_path / "a.json", options={"a": 1, "b": 3})


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[]",
        "{}",
        '{"configuration": {}}',
        '{"configuration": 3, "things": []}',
        '{"configuration": {}, "things": [{"name": 3}]}',
        '{"configuration": {}, "things": [{"name": "x", "parts": 5}]}',
        '{"configuration": {}, "things": [{"name": "x", "parts": [], "more": 1}]}',
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, damage):
    (tmp_path / "a.json").write_text(damage)
    with pytest.raises(ValueError, match=r"a\.json: is damaged; delete it and run again\.$"):
        store(tmp_path / "a.json")


def test_results_of_changed_items_are_made_again(tmp_path):
    made = []

    def counted(name):
        made.append(name)
        return make(name)

    def complete(names, digest_of):
        done = store(tmp_path / "a.json")
        found = done.complete(items(*names), counted, "make", "thing", digest_of=digest_of)
        assert [thing.name for thing in found] == list(names)

    complete("xy", str)
    complete("xyz", str)
    assert made == ["x", "y", "z"]
    changed = {"x": "x", "y": "other", "z": "z"}.get
    complete("xy", changed)
    assert made == ["x", "y", "z", "y"]
    complete("xyz", changed)
    assert made == ["x", "y", "z", "y"]


def test_results_of_other_inputs_are_made_again(tmp_path, caplog):
    for made_from in ([1, 2], [1, 3], [1, 3]):
        opened = ResultStore(tmp_path / "a.json", {}, Thing, lambda t: t.name, "things", made_from)
        opened.complete(items("x"), make, "make", "thing")
    assert caplog.text.count("was made from other files than are there now") == 1
