"""Commands that are killed midway."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence


def run_until_killed(command: Sequence[str], seconds: float, sign: bytes = b"") -> bool:
    """Run Python with these arguments; kill it a while after it prints `sign`; did it still run?"""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    printed = b""
    while (byte := process.stderr.read(1)) and sign not in (printed := printed + byte):
        pass
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    assert process.returncode == 0
    return False
