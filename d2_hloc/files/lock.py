"""One process at a time in an output folder, or at a file."""

from __future__ import annotations

import errno
import os
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows; two runs in one folder are then the user's care
    fcntl = None  # type: ignore[assignment]


class Busy(ValueError):
    """Another process is at work there."""


class FolderLock:
    """Holds a folder while it lives; the system lets go of it when the process ends, killed or not.

    Raises:
        Busy: if another process holds it.
    """

    FLAGS = os.O_RDONLY

    def __init__(self, folder: Path) -> None:
        self._descriptor = None if fcntl is None else os.open(folder, self.FLAGS, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # anything else: a file system that has no locks
            if error.errno in (errno.EACCES, errno.EAGAIN):
                self.__del__()
                raise Busy(f"{folder}: another run is at work in it; wait for its end.") from None

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class FileLock(FolderLock):
    """As FolderLock with a file, which is made and stays: NFS locks only what is open to write.

    It is let go of at the end of `with FileLock(path):`.
    """

    FLAGS = os.O_RDWR | os.O_CREAT

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.__del__()


_held: weakref.WeakValueDictionary[str, FolderLock] = weakref.WeakValueDictionary()


def lock_folder(folder: Path) -> FolderLock:
    """The lock of a folder, which is made if need be; within one process it is shared."""
    folder.mkdir(parents=True, exist_ok=True)
    key = str(folder.resolve())
    lock = _held.get(key)
    if lock is None:
        lock = _held[key] = FolderLock(folder)
    return lock
