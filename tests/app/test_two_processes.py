"""Two processes at one output: the second is told so, and the first's work is all that there is."""

import time

import pytest
from dense_scene import write_scene
from hdf5 import contents
from loaded_process import LoadedProcess

from d2_hloc.app import cli

HOLD = """
import sys, time
from pathlib import Path
from d2_hloc.app import cli
from d2_hloc.features import extraction
from d2_hloc.mvs import reconstruct
go = Path(sys.argv[1])
def held(function):
    def waiting(*arguments):
        print("held", file=sys.stderr, flush=True)
        while not go.exists():
            time.sleep(0.02)
        return function(*arguments)
    return waiting
extraction._extract_batch = held(extraction._extract_batch)
reconstruct.sweep_view = held(reconstruct.sweep_view)
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture
def extract(small_run, tmp_path):
    """The command at an output; one with other options; what it makes; when its work is done."""
    command = ["extract", str(small_run.images), "--feature", "sift"]
    return command, [*command, "--resize-max", "100"], "features.h5", contents


@pytest.fixture
def dense(tmp_path):
    folder = tmp_path / "scene"
    write_scene(folder)
    conf, other = tmp_path / "small.yaml", tmp_path / "other.yaml"
    text = "{{max_image_size: 64, sweep: {{hypotheses: {}}}, fusion: {{min_num_pixels: 2}}}}"
    conf.write_text(text.format(8))
    other.write_text(text.format(9))
    command = ["dense", str(folder / "sparse"), "--images", str(folder / "images"), "--config"]
    return [*command, str(conf)], [*command, str(other)], "dense", maps


def maps(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.bin")}


def at(command, output):
    return [*command[:2], str(output), *command[2:]]


def error_of(capsys):
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("d2-hloc: ")]


@pytest.mark.parametrize("step", ["extract", "dense"])
def test_the_second_is_told_and_the_first_makes_what_it_would_alone(
    request, tmp_path, capsys, step
):
    command, other, name, read = request.getfixturevalue(step)
    output, alone, go = tmp_path / "o" / name, tmp_path / "alone" / name, tmp_path / "go"
    script = tmp_path / "hold.py"
    script.write_text(HOLD)
    first = LoadedProcess([script, go, *at(command, output)])
    try:
        while b"held" not in (line := first.stderr.readline()):
            assert line
        for second in (command, other):
            assert cli.main(at(second, output)) == 1
            (sentence,) = error_of(capsys)
            assert f"{output}: another run is at work in it; wait for its end." in sentence
        go.touch()
        deadline = time.monotonic() + 100
        while first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert first.poll() == 0
    finally:
        first.kill()
        first.stderr.close()
    assert cli.main(at(command, alone)) == 0
    made = read(output)
    assert made == read(alone)
    assert cli.main(at(command, output)) == 0
    error_of(capsys)
    assert cli.main(at(other, output)) == 1
    (sentence,) = error_of(capsys)
    assert "was made with another configuration" in sentence
    assert read(output) == made
