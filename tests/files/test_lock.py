"""Locks keep other processes out, are shared within one, and end with it."""

import signal
import subprocess
import sys

import pytest

from d2_hloc.files.lock import Busy, FileLock, lock_folder

HOLD = """
import sys, time
from pathlib import Path
from d2_hloc.files.lock import FileLock, lock_folder
held = {hold}
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["lock_folder(Path({!r}))", "FileLock(Path({!r}) / 'file')"])
def holder(request, tmp_path):
    """Another process that holds a lock, and how this one asks for it."""
    code = HOLD.format(hold=request.param.format(str(tmp_path)))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    is_folder = request.param.startswith("lock_folder")
    yield process, lambda: lock_folder(tmp_path) if is_folder else FileLock(tmp_path / "file")
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


def test_a_file_is_let_go_at_the_end_of_the_block(tmp_path):
    for _ in range(2):
        with FileLock(tmp_path / "file"):
            pass
    assert (tmp_path / "file").is_file()
