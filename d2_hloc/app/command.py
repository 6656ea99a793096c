"""Frame of every command: logging, and one sentence for what goes wrong."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

DISK_FULL = "the disk is full; free some space and run again, it goes on from there."


def run_command(name: str, work: Callable[[], object]) -> int:
    """Do the work and return the exit status; a problem is one sentence after the name."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet_colmap()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: parts are kept
    try:
        work()
    except BrokenPipeError:  # of '| head', which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"{name}: {sentence(error)}", file=sys.stderr)
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


def quiet_colmap() -> None:
    """Keep COLMAP's own log to errors, if it is loaded: a command's --help loads it not."""
    colmap = sys.modules.get("d2_hloc.files.colmap")
    if colmap is not None:
        colmap.quiet()


def sentence(error: ValueError | OSError) -> str:
    """The text of an error; the system's own gets the file in front of its reason."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL if error.filename is None else f"{error.filename}: {DISK_FULL}"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}."
    return str(error)
