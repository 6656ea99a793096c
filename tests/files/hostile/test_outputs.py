"""Whatever waits in an output folder: nothing is written beyond it, and what is done stays."""

import json
import os
import re
import shutil

import hostile_files as bad
import pytest
from hostile_commands import COMMANDS, run, write_plain
from hostile_files import snapshot

from d2_hloc.app import cli
from d2_hloc.files.outputs import Outputs

FIRST = [(command, next(iter(kinds.values()))) for command, kinds in COMMANDS]
IN_OUT = [(c, w) for c, w in FIRST if any("{out}" in argument for argument in c)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Good files beside the hostile one, by name."""
    return write_plain(tmp_path_factory.mktemp("plain"))


def copy_of(folder, target):
    """Hard links: what is written in place is seen in both."""
    shutil.copytree(folder, target, copy_function=os.link)
    return target


@pytest.mark.parametrize(("command", "write"), IN_OUT, ids=[" ".join(c) for c, _ in IN_OUT])
def test_a_finished_run_loses_nothing_by_hostile_input(
    tmp_path, plain, small_run, monkeypatch, capfd, command, write
):
    out, given = copy_of(small_run.output, tmp_path / "out"), tmp_path / "given"
    given.mkdir()
    monkeypatch.chdir(given)
    values = {name: str(path) for name, path in plain.items()} | {"out": str(out)}
    hostile = write(given)
    before = snapshot(tmp_path), snapshot(small_run.output)
    arguments = [str(hostile) if a == "{}" else a.format(**values) for a in command[1:]]
    capfd.readouterr()
    assert run(command[0], arguments) == 1
    assert "Traceback" not in capfd.readouterr().err
    after = snapshot(tmp_path)
    assert {name: after.get(name) for name in before[0]} == before[0]
    assert snapshot(small_run.output) == before[1]


@pytest.fixture
def begun(small_run, tmp_path):
    """A run of ours whose stages are to be done again."""
    out = tmp_path / "out"
    shutil.copytree(small_run.output, out)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"done": {}}))
    return out


def lead_outside(path, outside):
    """Put a link in the place of a file or folder, to one of the same content elsewhere."""
    target = outside / path.name
    if path.exists():
        path.rename(target)
    else:
        target.write_text("mine")
    path.symlink_to(target)
    return target


REPLACED = ["run.json", "features.h5", "pairs.txt", "matches.h5", "sparse", "report.html"]
REPLACED += ["sparse.mapping"]


def test_links_in_the_place_of_results_are_replaced_and_not_followed(small_run, begun, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in REPLACED:
        lead_outside(begun / name, outside)
    before = snapshot(outside)
    assert cli.main(small_run.arguments(begun)) == 0
    assert snapshot(outside) == before
    left = {path.name for path in begun.iterdir() if path.is_symlink()}
    assert left <= {"features.h5", "matches.h5"}  # which nothing was added to


DATABASE = Outputs.database.name
REFUSED = [DATABASE, f"{DATABASE}-wal", f"{DATABASE}-journal", ".lock", "features.h5.parts"]
REFUSED += ["features.h5.lock", "dense", "benchmark"]


@pytest.mark.parametrize("name", REFUSED)
def test_links_in_the_place_of_what_is_written_in_place_are_refused(
    small_run, begun, tmp_path, capsys, name
):
    outside = tmp_path / "outside"
    outside.mkdir()
    lead_outside(begun / name, outside)
    before = snapshot(begun), snapshot(outside)
    assert cli.main(small_run.arguments(begun)) == 1
    said = [x for x in capsys.readouterr().err.splitlines() if x.startswith("d2-hloc: ")]
    assert len(said) == 1
    assert re.search(rf"{re.escape(name)}: is a link", said[0])
    assert (snapshot(begun), snapshot(outside)) == before


STEPS = {
    "extract": ("extract", "{images}", "{out}", "--feature", "sift"),
    "match": ("match", "{pairs}", "{features}", "{out}"),
    "compress": ("compress", "{features}", "{out}"),
}


@pytest.mark.parametrize("where", ["", ".lock", ".parts", ".shards"])
@pytest.mark.parametrize("step", STEPS)
def test_a_step_writes_through_no_link(tmp_path, plain, step, where):
    out, outside = tmp_path / "o" / "made.h5", tmp_path / "outside"
    out.parent.mkdir()
    outside.mkdir()
    link = out.with_name(out.name + where)
    if where in (".parts", ".shards"):
        (outside / "folder").mkdir()
        link.symlink_to(outside / "folder")
    else:
        link.symlink_to(outside / "file")  # which is not there yet
    values = {name: str(path) for name, path in plain.items()} | {"out": str(out)}
    if step == "match":
        values["features"] = str(tmp_path / "features.h5")
        extract = ["extract", values["images"], values["features"], "--feature", "sift"]
        assert cli.main(extract) == 0
    arguments = [a.format(**values) for a in STEPS[step]]
    if where == ".shards":
        arguments += ["--shard", "1/1"] if step != "compress" else []
    before = snapshot(outside), snapshot(plain["folder"])
    status = cli.main(arguments)
    assert (snapshot(outside), snapshot(plain["folder"])) == before
    assert status == (where != "" and (where, step) != (".shards", "compress"))
    assert out.is_file() == (status == 0)
    assert not out.is_symlink() or status


THIN = {"flat": (64, 1), "upright": (1, 48), "pixel": (1, 1)}


@pytest.mark.parametrize("feature", ["d2net", "d2net-ms", "sift", "d2net-dense"])
def test_images_of_one_pixel_cost_only_themselves(tmp_path, feature, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in THIN.items():
        bad.photograph(1, size).save(folder / f"{name}.png")
    arguments = ["extract", str(folder), str(tmp_path / "f.h5"), "--feature", feature]
    arguments += ["--resize-max", "64"]
    assert cli.main(arguments) in (0, 1)  # SIFT finds nothing, and says so
    assert "Traceback" not in capsys.readouterr().err
    bad.photograph(2, (64, 48)).save(folder / "good.png")
    assert cli.main(arguments) == 0
    output = tmp_path / "out"
    assert cli.main(["reconstruct", str(folder), str(output), *arguments[3:]]) == 1
    said = capsys.readouterr().err
    assert len([line for line in said.splitlines() if line.startswith("d2-hloc: ")]) == 1
    assert "Traceback" not in said
