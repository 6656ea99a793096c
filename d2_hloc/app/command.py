"""Frame of every command: logging, and one sentence for what goes wrong."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from d2_hloc.core.engines import ShardDone

LONGEST = 2000  # characters of a sentence
SECONDS_BETWEEN_LINES = "10"  # of progress
DISK_FULL = "the disk is full; free some space and run again, it goes on from there."


def run_command(name: str, work: Callable[[], object], is_verbose: bool = False) -> int:
    """Do the work and return the exit status; a problem is one sentence after the name.

    With `is_verbose` all logs are shown, and before the sentence where in the code it came from.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet_colmap(is_verbose)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: parts are kept
    try:
        work()
    except ShardDone as done:
        print(done)
    except BrokenPipeError:  # of '| head', which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if is_verbose:
            traceback.print_exc()
        print(f"{name}: {in_one_line(sentence(error))}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if "disk is full" not in str(error):  # SQLite's words, through COLMAP
            raise
        print(f"{name}: {DISK_FULL}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped; run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


def in_one_line(text: str) -> str:
    """Return a text without what would steer a terminal, cut where it is very long.

    A stranger's file may have put anything into it.
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."


class ProgressLines:
    """A stream on which progress bars, which go back to a line's beginning, become plain lines.

    With `is_quiet` they are left out. All else is written as it is.
    """

    def __init__(self, stream: TextIO, is_quiet: bool) -> None:
        self._stream, self._is_quiet = stream, is_quiet
        self._was_progress = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, which is a bar's where it begins with a carriage return."""
        is_end = self._was_progress and text == "\n"  # of a bar that stays
        self._was_progress = text.startswith("\r")
        if self._was_progress:
            line = "" if self._is_quiet else text[1:].rstrip()
            self._stream.write(line + "\n" if line else "")
        elif not is_end:
            self._stream.write(text)
        return len(text)


@contextmanager
def as_asked(args: argparse.Namespace) -> Iterator[None]:
    """Print as --quiet, --verbose and --json ask.

    Progress is lines, now and then, where no terminal is.
    """
    with ExitStack() as stack:
        root = logging.getLogger()
        if args.quiet:
            stack.callback(root.setLevel, root.level)
            root.setLevel(logging.WARNING)
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
        elif getattr(args, "json", False):
            stack.enter_context(redirect_stdout(sys.stderr))
        if args.verbose:
            ours = logging.getLogger("d2_hloc")
            stack.callback(ours.setLevel, ours.level)
            ours.setLevel(logging.DEBUG)
        if args.quiet or not sys.stderr.isatty():
            if "TQDM_MININTERVAL" not in os.environ:
                os.environ["TQDM_MININTERVAL"] = SECONDS_BETWEEN_LINES
                stack.callback(os.environ.pop, "TQDM_MININTERVAL", None)
            lines: Any = ProgressLines(sys.stderr, args.quiet)
            stack.enter_context(redirect_stderr(lines))
        yield


def quiet_colmap(is_verbose: bool = False, is_quiet: bool = False) -> None:
    """Keep COLMAP's own log to errors, if it is loaded: a command's --help loads it not.

    With `is_verbose` it says all that it has to say. With `is_quiet` it says nothing: its errors
    are of attempts, which others may follow, and of those that fail at last we say so ourselves.
    """
    colmap = sys.modules.get("d2_hloc.files.colmap")
    if colmap is not None and is_verbose:
        colmap.talk()
    elif colmap is not None:
        colmap.quiet(with_errors=not is_quiet)


def sentence(error: ValueError | OSError) -> str:
    """The text of an error; the system's own gets the file in front of its reason."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL if error.filename is None else f"{error.filename}: {DISK_FULL}"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}."
    return str(error)
