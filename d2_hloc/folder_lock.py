"""One process at a time in an output folder."""

from __future__ import annotations

import errno
import os
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows; two runs in one folder are then the user's care
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """Holds a folder while it lives; the system lets go of it when the process ends, killed or not.

    Raises:
        ValueError: if another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = None if fcntl is None else os.open(folder, os.O_RDONLY)
        try:
            if fcntl is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # anything else: a file system that has no locks
            if error.errno in (errno.EACCES, errno.EAGAIN):
                self.__del__()
                raise ValueError(
                    f"{folder}: another run is at work in it; wait for its end."
                ) from None

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_held: weakref.WeakValueDictionary[str, FolderLock] = weakref.WeakValueDictionary()


def lock_folder(folder: Path) -> FolderLock:
    """The lock of a folder, which is made if need be; within one process it is shared."""
    folder.mkdir(parents=True, exist_ok=True)
    key = str(folder.resolve())
    lock = _held.get(key)
    if lock is None:
        lock = _held[key] = FolderLock(folder)
    return lock
