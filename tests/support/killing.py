"""Commands that are killed midway, or interrupted before their record is written."""

import threading
from collections.abc import Callable, Sequence

import pytest
from loaded_process import LoadedProcess

from d2_hloc.files.run_record import RunRecord


def run_until_killed(command: Sequence[object], seconds: float, sign: bytes = b"") -> bool:
    """Run Python with these arguments; kill it a while after it prints `sign`; did it still run?"""
    process = LoadedProcess(command)
    try:
        printed = b""
        while (byte := process.stderr.read(1)) and sign not in (printed := printed + byte):
            pass
        threading.Thread(target=process.stderr.read, daemon=True).start()
        status = process.wait(seconds)
    finally:
        process.kill()
    assert status in (None, 0)
    return status is None


def go_on_after_interruptions(run: Callable[[], int], most: int = 60) -> int:
    """Run a command that is interrupted before its first record, then its second, ... to its end.

    Every run goes on from what the one before left. Returns how often it was interrupted; after
    `most` times it is left alone.
    """
    write = RunRecord.write
    for k in range(most):
        let_through = iter(range(k))

        def interrupted(record: RunRecord, let_through: object = let_through) -> None:
            if next(let_through, None) is None:
                raise KeyboardInterrupt
            write(record)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(RunRecord, "write", interrupted)
            status = run()
        if status == 0:
            return k
        assert status == 130
    assert run() == 0
    return most
