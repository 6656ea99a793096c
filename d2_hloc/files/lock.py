"""One process at a time in an output folder, or at a file."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

FOLDER_LOCK = ".lock"  # in a folder, while it is locked
OUTPUT_LOCK = ".lock"  # after the name of a file, while it is made
# Of file systems that have no locks; two runs in one folder are then the user's care.
WITHOUT_LOCKS = (None, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Busy(ValueError):
    """Another process is at work there."""


class FileLock:
    """Holds a lock by a file, which is made and stays, until the end of `with FileLock(path):`.

    The system lets go of it when the process ends, killed or not.

    Raises:
        Busy: if another process holds it.
        ValueError: if a link is in its place.
    """

    def __init__(self, path: Path) -> None:
        self._lock = _acquired(path, path)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class PassingLock:
    """Holds a lock by a file that is deleted in the end, while it lives or until `with` it ends.

    The system lets go of it when the process ends, killed or not.

    Raises:
        Busy: if another process holds it.
    """

    def __init__(self, path: Path, where: Path) -> None:
        """Lock the file `path`; `where` is what an error names."""
        self._path = path
        self._lock = _acquired(path, where)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        if "_lock" in vars(self):
            self.release()

    def release(self) -> None:
        """Let go of it; again does nothing."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)  # before others can hold it
            self._lock.release()


class FolderLock(PassingLock):
    """Holds a folder, which is there, by a file in it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FOLDER_LOCK, folder)


class OutputLock(PassingLock):
    """Holds a file or folder that is made, and may not be there yet, by a file beside it."""

    def __init__(self, output: Path) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(output.with_name(output.name + OUTPUT_LOCK), output)


def _acquired(path: Path, where: Path) -> filelock.BaseFileLock:
    if path.is_symlink():  # older versions of filelock would empty what it leads to
        raise ValueError(f"{path}: is a link where a lock has to be; delete it.")
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
_outputs: set[str] = set()  # that this process holds


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


@contextmanager
def holding_output(output: Path) -> Iterator[None]:
    """Hold a folder that may not be there yet; steps within others of one process share it.

    Raises:
        Busy: if another process holds it.
    """
    key = str(output.resolve())
    if key in _outputs:
        yield
        return
    with OutputLock(output):
        _outputs.add(key)
        try:
            yield
        finally:
            _outputs.discard(key)
