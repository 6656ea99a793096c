"""run.json: whole after every stage, continued by a rerun, kept from another configuration."""

import json
import subprocess
import sys
import time

import pytest

from d2_hloc.files import run_record as module
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.files.run_record import RunRecord

CONFIGURATION = {"images": "photos", "matching": {"ratio_threshold": 0.9, "scales": (1.0, 2.0)}}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "deep" / "out"


def read(output):
    return json.loads((output / "run.json").read_text())


def test_a_run_that_fails_at_once_leaves_its_folder_to_another(output):
    RunRecord(output, {"weights": "misspelled"})
    assert not list(output.iterdir())
    RunRecord(output, CONFIGURATION)


def test_another_process_in_the_folder_is_one_sentence(output):
    record = RunRecord(output, CONFIGURATION)
    script = f"from d2_hloc.files.run_record import *; RunRecord(Path({str(output)!r}), {{}})"
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"{output}: another run is at work in it; wait for its end." in found.stderr
    del record
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_new_record_holds_configuration_and_versions(output):
    RunRecord(output, CONFIGURATION).write()
    found = read(output)
    assert found["configuration"] == {
        "images": "photos",
        "matching": {"ratio_threshold": 0.9, "scales": [1.0, 2.0]},
    }
    assert set(found["versions"]) == {"d2_hloc", "torch", "pycolmap", "numpy", "h5py", "python"}
    assert all(v[0].isdigit() for v in found["versions"].values())
    assert found["counts"] == found["timings"] == found["scores"] == found["done"] == {}


def test_every_stage_is_written_when_it_ends(output, monkeypatch):
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(module, "perf_counter", lambda: next(clock))
    record = RunRecord(output, CONFIGURATION)
    with record.timed("extract"):
        record.counts["images"] = 11
        assert not (output / "run.json").exists()
    assert read(output)["counts"] == {"images": 11}
    assert read(output)["timings"] == {"extract": 2.5}


def test_a_rerun_goes_on_with_timings_and_what_is_done(output, monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr(module, "perf_counter", lambda: next(clock))
    first = RunRecord(output, CONFIGURATION)
    with first.timed("match"):
        pass
    first.mark_done("match", ("a", 5))
    second = RunRecord(output, CONFIGURATION)
    assert second.is_done("match", ["a", 5])
    assert not second.is_done("match", ["a", 6])
    assert not second.is_done("map")
    with second.timed("match"):
        pass
    assert read(output)["timings"] == {"match": 5.0}
    assert read(output)["done"] == {"match": ["a", 5]}


def test_a_stage_that_fails_is_not_done_and_does_not_damage_the_record(output):
    record = RunRecord(output, CONFIGURATION)
    with pytest.raises(KeyboardInterrupt), record.timed("map"):
        raise KeyboardInterrupt
    assert not (output / "run.json").exists()
    assert not RunRecord(output, CONFIGURATION).is_done("map")


def test_another_configuration_stops_and_shows_both(output):
    RunRecord(output, CONFIGURATION).write()
    before = (output / "run.json").read_bytes()
    other = {"images": "photos", "matching": {"ratio_threshold": 0.8, "scales": (1.0, 2.0)}}
    with pytest.raises(ConfigurationChanged) as error:
        RunRecord(output, other)
    assert str(error.value) == (
        f"{output}: was made with another configuration. "
        'There: {"matching": {"ratio_threshold": 0.9}}. Now: {"matching": {"ratio_threshold": 0.8}}'
        ". Choose another output; its features.h5 may be copied there."
    )
    assert (output / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"configuration": 3}',
        '{"configuration": {}, "done": {}}',
        '{"configuration": {}, "timings": 3}',
        '{"configuration": {}, "timings": {}, "done": 3}',
    ],
)
def test_what_is_no_record_is_named_and_left(output, text):
    output.mkdir(parents=True)
    (output / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json: is not the record of a run; delete it\."):
        RunRecord(output, {})
    assert (output / "run.json").read_text() == text


def test_a_kill_while_it_is_written_leaves_the_old_record(output, monkeypatch):
    record = RunRecord(output, CONFIGURATION)
    record.write()
    record.counts["images"] = 11

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("d2_hloc.files.atomic.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        record.write()
    monkeypatch.undo()
    assert read(output)["counts"] == {}
    RunRecord(output, CONFIGURATION)


def test_time_is_measured(output):
    record = RunRecord(output, CONFIGURATION)
    with record.timed("sleep"):
        time.sleep(0.02)
    assert record.timings["sleep"] >= 0.02


@pytest.mark.parametrize("name", ["pairs.txt", "sparse.mapping", "refined.h5", "report.html"])
def test_what_no_run_made_is_never_written_over(output, name):
    output.mkdir(parents=True)
    (output / name).write_text("mine")
    with pytest.raises(ValueError, match=f"out: holds a {name} that this program did not make"):
        RunRecord(output, CONFIGURATION)
    assert (output / name).read_text() == "mine"


def test_features_may_be_copied_into_a_new_output(output):
    output.mkdir(parents=True)
    (output / "features.h5").touch()
    RunRecord(output, CONFIGURATION)


def test_an_output_of_another_version_is_told(output, caplog):
    RunRecord(output, CONFIGURATION).write()
    RunRecord(output, CONFIGURATION)
    assert "version" not in caplog.text
    path = output / "run.json"
    path.write_text(json.dumps(read(output) | {"versions": {"d2_hloc": "0.0.9"}}))
    RunRecord(output, CONFIGURATION)
    assert f"{output}: was made by version 0.0.9, this is " in caplog.text
