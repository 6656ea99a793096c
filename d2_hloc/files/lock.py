"""One process at a time in an output folder, or at a file."""

from __future__ import annotations

import errno
import weakref
from contextlib import suppress
from pathlib import Path

import filelock

FOLDER_LOCK = ".lock"  # in a folder, while it is locked
# Of file systems that have no locks; two runs in one folder are then the user's care.
WITHOUT_LOCKS = (None, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Busy(ValueError):
    """Another process is at work there."""


class FileLock:
    """Holds a lock by a file, which is made and stays, until the end of `with FileLock(path):`.

    The system lets go of it when the process ends, killed or not.

    Raises:
        Busy: if another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._lock = _acquired(path, path)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class FolderLock:
    """Holds a folder while it lives; the system lets go of it when the process ends, killed or not.

    Raises:
        Busy: if another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FOLDER_LOCK
        self._lock = _acquired(self._path, folder)

    def __del__(self) -> None:
        if "_lock" in vars(self):
            with suppress(OSError):
                self._path.unlink(missing_ok=True)  # before others can hold it
            self._lock.release()


def _acquired(path: Path, where: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Busy(f"{where}: another run is at work in it; wait for its end.") from None
    except (NotImplementedError, OSError) as error:
        if getattr(error, "errno", None) not in WITHOUT_LOCKS:
            raise
    return lock


_held: weakref.WeakValueDictionary[str, FolderLock] = weakref.WeakValueDictionary()


def lock_folder(folder: Path) -> FolderLock:
    """Hold a folder, which is made if need be, while the result lives; one process shares it.

    Raises:
        Busy: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = str(folder.resolve())
    lock = _held.get(key)
    if lock is None:
        lock = _held[key] = FolderLock(folder)
    return lock
