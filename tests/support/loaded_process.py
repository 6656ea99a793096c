"""Processes that have loaded what takes seconds: each is a fork of one that did so once."""

import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import CompletedProcess
from typing import BinaryIO

LOADED = (
    "d2_hloc.app.commands.models",
    "d2_hloc.app.commands.steps",
    "d2_hloc.mvs.reconstruct",
    "d2_hloc.benchmarks.aachen.run",
    "d2_hloc.benchmarks.hpatches.run",
    "d2_hloc.benchmarks.inloc.run",
    "d2_hloc.benchmarks.sfm_benchmark.run",
    "d2_hloc.training.loop",
)
_context = get_context("forkserver")
_context.set_forkserver_preload(list(LOADED))


class LoadedProcess:
    """A command in a process and a session of its own.

    It does what `python ARGUMENTS` does, but for loading the package, which takes seconds.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        output: str | Path = os.devnull,
        paths: Sequence[Path] | None = None,
    ) -> None:
        """`arguments`: `-m MODULE ...` or `SCRIPT ...`; its output goes to the file `output`.

        With `paths`, the libraries alone are loaded: it finds the package and others there first.
        """
        reading, writing = _context.Pipe(duplex=False)
        given = [str(a) for a in arguments], writing, str(output), paths
        self._process = _context.Process(target=_run, args=given)
        self._process.start()
        writing.close()
        self.stderr: BinaryIO = os.fdopen(os.dup(reading.fileno()), "rb")
        reading.close()

    def poll(self) -> int | None:
        """The exit status, if it ended."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end, or so long; as poll()."""
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        """Kill it and all that it started."""
        if self.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()


def run_with_libraries(arguments: Sequence[object], paths: Sequence[Path]) -> CompletedProcess[str]:
    """Run Python with these arguments; the package and what is at `paths` are loaded afresh."""
    with tempfile.NamedTemporaryFile() as output:
        process = LoadedProcess(arguments, output.name, paths)
        said = process.stderr.read().decode()
        status = process.wait()
        assert status is not None
        return CompletedProcess([*arguments], status, output.read().decode(), said)


def _run(
    arguments: list[str], stderr: Connection, output: str, paths: Sequence[Path] | None
) -> None:
    os.setsid()
    os.dup2(os.open(output, os.O_WRONLY), 1)
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    if paths is not None:
        sys.path[:0] = map(str, paths)
        for name in [name for name in sys.modules if name.split(".")[0] == "d2_hloc"]:
            del sys.modules[name]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
