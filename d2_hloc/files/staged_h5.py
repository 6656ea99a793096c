"""Write many records into one HDF5 file, each whole or not at all, through any kill.

Records gather in memory and go to part files beside the target, `features.h5.parts/`, each written
under another name and renamed when it is whole. At the end the parts are merged into a copy of the
target, which then takes its place. HDF5 itself cannot be appended to safely: a process that is
killed while it writes leaves a file that may not open again.

A record may also be a link to another file that holds it (see merging.py); it reads as the rest do.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from d2_hloc.core.text import read_json_file
from d2_hloc.files.atomic import (
    clear_unfinished_of,
    disk_full_in_a_sentence,
    mebibytes,
    refuse_links,
    unfinished_name,
    write_atomically,
)
from d2_hloc.files.checked_arrays import read_json
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.files.lock import OutputLock
from d2_hloc.files.provenance import check_configuration

logger = logging.getLogger(__name__)


PART_BYTES = 32 << 20


PART_SECONDS = 2.0  # at most this much work is lost to a kill


@dataclass(frozen=True)
class Value:
    """One dataset of a record, with its attributes."""

    data: np.ndarray
    attributes: dict[str, Any] = field(default_factory=dict)


Record = dict[str, Value]


class Staged:
    """A file in the making: `with Staged(path, configuration) as staged: staged.add(key, record)`.

    On entry, `done` holds the keys of all records that are there already. On leaving without an
    error the parts are merged; on an error they stay, and the next run goes on from them. `merged`
    holds the keys of `whole`, the file that this one is a shard of, where there is one.

    Raises:
        Busy: if another process is making the file.
        ConfigurationChanged: if the file or its parts were made with another configuration.
        DiskFull: if there is no space.
    """

    def __init__(
        self, path: Path, configuration: dict[str, Any], marker: str, whole: Path | None = None
    ) -> None:
        """`marker` is the dataset that every whole record has."""
        self.path, self.marker, self.whole = path, marker, whole
        self.configuration = json.loads(json.dumps(configuration))
        self.failures: dict[str, str] = {}
        self.parts = path.with_name(path.name + ".parts")
        self.done: set[str] = set()
        self.merged: set[str] = set()
        self._pending: dict[str, Record] = {}
        self._bytes = 0
        self._since = time.monotonic()

    def __enter__(self) -> Staged:
        with disk_full_in_a_sentence(self.path):
            self._lock = OutputLock(self.path)
        try:
            clear_unfinished_of([self.path])
            refuse_links(self.parts)
            self.done |= self._keys_of(self.path)
            if self.whole is not None:
                self.merged |= self._keys_of(self.whole)
            self._open_parts()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with self._lock:
            if kind is None or not issubclass(kind, OSError):
                self.flush()
            if kind is None:
                self._merge()

    def add(self, key: str, record: Record) -> None:
        """Keep a record; it is safe on disk within seconds."""
        self._pending[key] = record
        self._bytes += sum(v.data.nbytes for v in record.values())
        if self._bytes > PART_BYTES or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def _keys_of(self, path: Path) -> set[str]:
        if not path.exists():
            return set()
        try:
            with GuardedFile(path) as file:
                text = file.attrs.get("configuration")
                keys = file.keys_with(self.marker)
        except (OSError, RuntimeError, KeyError) as error:
            raise ValueError(why_unreadable(path, error)) from error
        found = None if text is None else read_json(text, f"{path}: what made it")
        check_configuration(path, found, self.configuration)
        return keys

    def _open_parts(self) -> None:
        record = self.parts / "configuration.json"
        if record.exists() and self._part_files():
            found = read_json_file(record)
            check_configuration(self.parts, found, self.configuration)
        else:  # a kill while they were being deleted can leave parts that do not say whose they are
            shutil.rmtree(self.parts, ignore_errors=True)
        with disk_full_in_a_sentence(self.path):
            self.parts.mkdir(parents=True, exist_ok=True)
            write_atomically(record, json.dumps(self.configuration).encode())
        for part in self._part_files():
            if not _has_its_checksum(part):
                logger.warning("%s: is damaged; its records are made again.", part)
                part.unlink()
                continue
            with GuardedFile(part) as file:
                self.done |= file.keys_with(self.marker)

    def drop_parts(self, is_stale: Callable[[GuardedFile, str], bool]) -> None:
        """Delete parts with a stale record; each is the work of seconds, and all is made again."""
        dropped, kept = set(), self._keys_of(self.path)
        for part in self._part_files():
            with GuardedFile(part) as file:
                keys = file.keys_with(self.marker)
                stale = sorted(key for key in keys if is_stale(file, key))
            if stale:
                logger.warning("%s: %s changed since; made again.", part, ", ".join(stale[:3]))
                part.unlink()
                dropped |= keys
            else:
                kept |= keys
        self.done -= dropped - kept

    def drop(self, is_stale: Callable[[GuardedFile, str], bool]) -> list[str]:
        """Delete the stale records of the file, and parts that have one; their keys in the file."""
        self.drop_parts(is_stale)
        if not self.path.exists():
            return []
        with GuardedFile(self.path) as file:
            stale = sorted(key for key in file.keys_with(self.marker) if is_stale(file, key))
        if stale:
            without = unfinished_name(self.path)
            with disk_full_in_a_sentence(self.path):
                shutil.copyfile(self.path, without)
                with h5py.File(without, "a") as file:
                    for key in stale:
                        del file[key]
            without.replace(self.path)
            self.done -= set(stale)
        return stale

    def _part_files(self) -> list[Path]:
        return sorted(self.parts.glob("*.h5"))

    def flush(self) -> None:
        """Write what is pending."""
        if self._pending:
            buffer = io.BytesIO()
            with h5py.File(buffer, "w") as file:
                for key, record in self._pending.items():
                    _write(file, key, record)
            data = buffer.getvalue()
            name = f"{time.time_ns():020d}-{os.getpid()}-{zlib.crc32(data):08x}.h5"
            with disk_full_in_a_sentence(self.path):
                write_atomically(self.parts / name, data)
            self.done |= set(self._pending)
            self._pending, self._bytes = {}, 0
        self._since = time.monotonic()

    def _merge(self) -> None:
        parts = self._part_files()
        if parts or not self._is_unchanged():
            copy = partial(copy_new, markers=(self.marker,))
            write_merged(self.path, parts, copy, self.configuration, self.failures)
        shutil.rmtree(self.parts)

    def _is_unchanged(self) -> bool:
        """True if the file is there, with the failures of this run."""
        if not self.path.exists():
            return False
        with GuardedFile(self.path) as file:
            return file.attrs.get("failures") == _text(self.failures)


def _has_its_checksum(part: Path) -> bool:
    """A part's name ends with it."""
    return part.stem.endswith(f"-{zlib.crc32(part.read_bytes()):08x}")


def why_unreadable(path: Path, error: Exception) -> str:
    """Why a file does not open, and the remedy; deleting is one only for a damaged .h5."""
    if path.is_dir():
        return f"{path}: is a folder; name the file itself, such as {path / 'features.h5'}."
    if path.exists() and not path.is_file():
        return f"{path}: is not a regular file; name an HDF5 file."
    if isinstance(error, PermissionError):
        return f"{path}: cannot be read, permission is denied."
    if path.suffix != ".h5":
        return f"{path}: is not an HDF5 file; name another, ending in .h5."
    return f"{path}: is damaged or not HDF5; delete it and run again."


def _write(file: h5py.File, key: str, record: Record) -> None:
    group = file.create_group(key)
    for name, value in record.items():
        dataset = group.create_dataset(name, data=value.data)
        dataset.attrs.update(value.attributes)


def copy_new(source: Path, target: h5py.File, markers: Sequence[str]) -> None:
    """Copy the records that are not there yet (a kill can come after they were); no links stay."""
    with GuardedFile(source) as file:
        for key in sorted(file.keys_with(*markers)):
            if isinstance(target.get(key, getlink=True), h5py.ExternalLink):
                del target[key]
            if key not in target:
                record = file[key]
                record.check_all()
                target.copy(record.raw, target, name=key)


def write_merged(
    path: Path,
    sources: Sequence[Path],
    copy: Callable[[Path, h5py.File], None],
    configuration: dict[str, Any],
    failures: dict[str, str],
    is_copied: bool = True,
) -> None:
    """Add the records of other files to a copy of `path`, which then takes its place.

    `copy` brings those of one source into the file, which takes their space if it is_copied.

    Raises:
        DiskFull: if there is no space.
    """
    merged = unfinished_name(path)
    with disk_full_in_a_sentence(path):
        _check_space(path, sources if is_copied else [])
        if path.exists():
            shutil.copyfile(path, merged)
        with h5py.File(merged, "a") as file:
            for source in sources:
                copy(source, file)
            file.attrs["configuration"] = json.dumps(configuration)
            file.attrs["failures"] = _text(failures)
        merged.replace(path)


def _check_space(path: Path, sources: Sequence[Path]) -> None:
    """HDF5 that runs out of space fails late and unclearly; ask first."""
    files = [*sources, path] if path.exists() else sources
    needed = sum(p.stat().st_size for p in files)
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, f"{mebibytes(needed)} MiB more are needed", str(path))


def _text(failures: dict[str, str]) -> str:
    """Sorted: the same whichever was found first."""
    return json.dumps(failures, sort_keys=True)
