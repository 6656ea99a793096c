"""Locks keep other processes out, are shared within one, and end with it."""

import signal
import subprocess
import sys

import pytest

from d2_hloc.files.lock import Busy, FileLock, OutputLock, holding_output, lock_folder

HOLD = """
import sys, time
from pathlib import Path
from d2_hloc.files.lock import FileLock, OutputLock, lock_folder
held = {hold}
print("held", flush=True)
time.sleep(60)
"""


ASK = {
    "lock_folder": lock_folder,
    "FileLock": lambda folder: FileLock(folder / "file"),
    "OutputLock": lambda folder: OutputLock(folder / "features.h5"),
}


@pytest.fixture(
    params=[
        "lock_folder(Path({!r}))",
        "FileLock(Path({!r}) / 'file')",
        "OutputLock(Path({!r}) / 'features.h5')",
    ]
)
def holder(request, tmp_path):
    """Another process that holds a lock, and how this one asks for it."""
    code = HOLD.format(hold=request.param.format(str(tmp_path)))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    ask = ASK[request.param.partition("(")[0]]
    yield process, lambda: ask(tmp_path)
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_process_is_kept_out_until_it_is_killed(holder, tmp_path):
    process, ask = holder
    with pytest.raises(Busy, match=f"{tmp_path}.*: another run is at work in it; wait for its end"):
        ask()
    process.send_signal(signal.SIGKILL)
    process.wait()
    ask()


def test_one_process_shares_a_folder(tmp_path):
    first = lock_folder(tmp_path / "out")
    assert lock_folder(tmp_path / "out" / ".." / "out") is first


def test_a_folder_that_is_let_go_is_as_it_was(tmp_path):
    lock = lock_folder(tmp_path / "out")
    del lock
    assert list((tmp_path / "out").iterdir()) == []


def test_an_output_is_held_before_it_is_there_and_nothing_stays(tmp_path):
    output = tmp_path / "new" / "features.h5"
    with OutputLock(output):
        with pytest.raises(Busy, match=r"features\.h5: another run is at work in it"):
            OutputLock(output)
        assert not output.exists()
    assert list(output.parent.iterdir()) == []


def test_steps_within_others_share_an_output(tmp_path):
    output = tmp_path / "dense"
    with holding_output(output):
        with holding_output(tmp_path / "x" / ".." / "dense"), pytest.raises(Busy):
            OutputLock(output)
        with pytest.raises(Busy):
            OutputLock(output)
    with OutputLock(output):
        pass


def test_a_file_is_let_go_at_the_end_of_the_block(tmp_path):
    for _ in range(2):
        with FileLock(tmp_path / "file"):
            pass
    assert (tmp_path / "file").is_file()
