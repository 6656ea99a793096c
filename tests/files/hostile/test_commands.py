"""Every command refuses every kind of hostile input that it can meet, and touches nothing else."""

import os
import re

import pytest
from hostile_commands import COMMANDS, run, write_plain
from hostile_files import snapshot


def cases():
    for command, kinds in COMMANDS:
        for kind, write in kinds.items():
            option = next((c for c in command[::-1] if c.startswith("--")), "")
            where = option if command[-1] == "{}" and option else command.index("{}")
            yield pytest.param(command, write, id=f"{' '.join(command[:2])} {where} {kind}")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Good files beside the hostile one, by name."""
    return write_plain(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(("command", "write"), list(cases()))
def test_what_is_hostile_is_refused_and_nothing_else_is_touched(
    tmp_path, plain, monkeypatch, capfd, command, write
):
    out, given, elsewhere = (tmp_path / name for name in ("out", "given", "elsewhere"))
    for folder in (out, given, elsewhere):
        folder.mkdir()
    (out / "notes.txt").write_text("the user's")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("D2_HLOC_CACHE", str(elsewhere))
    hostile = write(given)
    values = {name: str(path) for name, path in plain.items()} | {"out": str(out)}
    arguments = [str(hostile) if a == "{}" else a.format(**values) for a in command[1:]]
    around = snapshot(tmp_path, [out]), snapshot(plain["folder"])
    before = snapshot(out)
    capfd.readouterr()
    assert run(command[0], arguments) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    opening = re.compile(r"\w+: " if command[0] == "hloc" else f"{command[0]}: ")
    lines = said.replace("\r", "\n").splitlines()
    sentences = [line for line in lines if opening.match(line) and "%|" not in line]
    if command[0] == "hloc":
        sentences = [line for line in sentences if "Running our own" not in line]
    assert len(sentences) == 1, said
    assert hostile.name in sentences[0] or hostile.parent.name in sentences[0]
    assert all(c.isprintable() for c in sentences[0])
    assert (snapshot(tmp_path, [out]), snapshot(plain["folder"])) == around
    after = snapshot(out)
    assert {name: after.get(name) for name in before} == before
    assert not os.path.lexists(given / "code was run")
