"""A mistake in a command is one sentence and an exit status."""

import errno
import os
import signal

import pytest

from d2_hloc.app.command import run_command


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("a.txt: is empty."), "a.txt: is empty."),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), "/out: permission denied."),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
        (OSError(errno.ENOSPC, "No space left", "/out/a"), "/out/a: the disk is full; free some"),
        (RuntimeError("SQLite error: database or disk is full"), "the disk is full; free some"),
    ],
)
def test_a_problem_is_one_sentence(capsys, error, sentence):
    assert run_command("name", lambda: fail(error)) == 1
    assert capsys.readouterr().err.startswith(f"name: {sentence}")


def test_a_mistake_of_ours_is_not_hidden():
    with pytest.raises(RuntimeError, match="a mistake"):
        run_command("name", lambda: fail(RuntimeError("a mistake")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_says_how_to_go_on(capsys, number):
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let jobs ignore it
    try:
        assert run_command("name", lambda: os.kill(os.getpid(), number)) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "run the same command again to go on" in capsys.readouterr().err
