"""Write files whole or not at all, through any kill; say in one sentence that the disk is full."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO


class DiskFull(OSError):
    """No space to write to; what was written before is whole."""


WRITING = ".writing"  # ends the name of a file that is not whole
UNFINISHED = re.compile(rf"(.+)\.[0-9a-f]{{8}}{re.escape(WRITING)}(-wal|-shm|-journal)?")
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
ALMOST_FULL = 16 << 20  # bytes: a library that fails with less left has probably run out of it


class disk_full_in_a_sentence:  # noqa: N801 - reads as a statement
    """Turn 'no space left' into a sentence that names the file and the remedy.

    COLMAP and SQLite do not always say so; an error of theirs counts where almost none is left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(self.path) from error
        if isinstance(error, RuntimeError):
            check_space(self.path, error)


def check_space(path: Path, error: Exception) -> None:
    """Raise DiskFull, from the error, if the disk that a path is on has almost no space left."""
    if free_space(path) < ALMOST_FULL:
        raise _disk_full(path) from error


def free_space(path: Path) -> int:
    """Bytes that are free on the disk of a path, which need not be there yet."""
    existing = next((p for p in (path, *path.resolve().parents) if p.exists()), path)
    return shutil.disk_usage(existing).free


def _disk_full(path: Path) -> DiskFull:
    return DiskFull(
        f"{path}: the disk is full; free some space and run again, it goes on from here."
    )


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; links that wait under the name of its part are not used."""
    part = unfinished_name(path)
    try:
        with open_new(part) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def open_new(path: Path) -> BinaryIO:
    """Open a file that was not there, for writing; links are not followed."""
    return os.fdopen(os.open(path, NEW_FILE, 0o666), "wb")


def unfinished_name(path: Path) -> Path:
    """Name for a file while it is not whole, which nobody can foresee and leave a link at."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{WRITING}")


def clear_unfinished(folder: Path) -> None:
    """Delete what killed runs left half-written in a folder that no other process writes to."""
    for path in folder.iterdir():
        if UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


def clear_unfinished_of(paths: Iterable[Path]) -> None:
    """Delete what killed runs left half-written of files that no other process writes."""
    names: dict[Path, set[str]] = defaultdict(set)
    for path in paths:
        names[path.parent].add(path.name)
    for folder, those in names.items():
        for path in folder.iterdir() if folder.is_dir() else ():
            found = UNFINISHED.fullmatch(path.name)
            if found and found[1] in those:
                path.unlink(missing_ok=True)


def refuse_links(path: Path) -> None:
    """Raise ValueError for a link where a run writes in place: at a path, or anywhere below it."""
    links = [path] if path.is_symlink() else []
    if path.is_dir() and not links:
        for folder, folders, files in os.walk(path):
            links += [p for p in (Path(folder, n) for n in (*folders, *files)) if p.is_symlink()]
    if links:
        raise ValueError(
            f"{links[0]}: is a link, and a run writes into its own folder alone; put what it leads "
            "to in its place, or choose another output."
        )


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, with a full disk as one sentence.

    Raises:
        DiskFull: if there is no space.
    """
    with disk_full_in_a_sentence(path):
        write_atomically(path, data)


def mebibytes(size: int) -> int:
    """Bytes as whole MiB, rounded up."""
    return -(-size >> 20)


def empty_folder(path: Path) -> Path:
    """Make a folder, or delete what is in it; a link there goes, not what it leads to."""
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def replace_folder(source: Path, target: Path) -> None:
    """Put a folder in the place of another one, or of a link, which is deleted if it is there."""
    if target.is_symlink():
        target.unlink()
    shutil.rmtree(target, ignore_errors=True)
    source.replace(target)
