"""Shards -> one file in hloc's format, by copying or by links."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py

from d2_hloc.files import features_h5
from d2_hloc.files.atomic import clear_unfinished_of, refuse_links
from d2_hloc.files.hdf5_guard import GuardedFile, Refused
from d2_hloc.files.lock import OutputLock
from d2_hloc.files.provenance import check_configuration
from d2_hloc.files.shards import Shard, is_finished, shard_count, shard_path, shards_folder
from d2_hloc.files.staged_h5 import copy_new, write_merged

logger = logging.getLogger(__name__)

MARKERS = ("keypoints", "matches0")  # what records of features and of matches have


def merge(output: Path, link: bool = False) -> Path:
    """Make `output` of all its shards; it reads as if one process had written it.

    By default the records are copied, into what `output` holds already, and the shards are deleted.
    With `link` they stay where they are, and `output` leads to them (HDF5's external links).

    Raises:
        Busy: if another process is making `output`.
        ValueError: if there are no shards, or one is missing, unfinished or damaged.
        ConfigurationChanged: if they were not all made with one configuration.
        DiskFull: if there is no space.
    """
    folder = shards_folder(output)
    merged = folder.with_name(folder.name + ".merged")
    with OutputLock(output):
        clear_unfinished_of([output])
        for path in (folder, merged):
            refuse_links(path)
        if merged.exists():  # of a merge that was killed while it deleted them
            shutil.rmtree(merged)
            if not folder.exists():
                return output
        shards = {shard_path(output, shard): shard for shard in finished_shards(output)}
        failures = _join(output, shards, link)
        if not link:
            folder.replace(merged)  # at once: half of the shards would be taken for unfinished ones
            shutil.rmtree(merged)
    for name, reason in sorted(failures.items()):
        logger.warning("skipped %s: %s", name, reason)
    return output


def _join(output: Path, shards: Mapping[Path, Shard], link: bool) -> dict[str, str]:
    """Write `output`; what the shards note as failures."""
    made_by = features_h5.read_configuration(output) if output.exists() else None
    failures: dict[str, str] = {}
    for path, shard in shards.items():
        with _readable(path, shard):
            found = features_h5.read_configuration(path)
            failures |= features_h5.read_failures(path)
        made_by = found if made_by is None else made_by
        remedy = "Delete it and run again."
        check_configuration(path, found or {}, made_by or {}, remedy, asked_by="The other shards")

    def add(path: Path, file: h5py.File) -> None:
        with _readable(path, shards[path]):
            _link(path, file) if link else copy_new(path, file, MARKERS)

    write_merged(output, list(shards), add, made_by or {}, failures, is_copied=not link)
    return failures


@contextmanager
def _readable(path: Path, shard: Shard) -> Iterator[None]:
    """Say what is wrong with a shard in one sentence, with the remedy."""
    try:
        yield
    except Refused as error:
        raise ValueError(f"{error} Delete {path} and run --shard {shard} again.") from error
    except (OSError, RuntimeError, KeyError, features_h5.StorageError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"{path}: is damaged; delete it and run --shard {shard} again.") from error


def _link(path: Path, target: h5py.File) -> None:
    """Lead to a shard's records, by a path that is relative to the merged file."""
    with GuardedFile(path, is_shard=True) as file:
        for key in file.keys_with(*MARKERS):
            file[key].check_all()
            if key not in target:
                target[key] = h5py.ExternalLink(f"{path.parent.name}/{path.name}", key)


def finished_shards(output: Path) -> list[Shard]:
    """All shards of a file.

    Raises:
        ValueError: if there are none, or some are not finished.
    """
    folder, count = shards_folder(output), shard_count(output)
    if count is None:
        raise ValueError(f"{folder}: there are no shards to merge; make them with --shard i/n.")
    missing = [shard for shard in Shard.all(count) if not is_finished(output, shard)]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        names = ", ".join(map(str, missing[:3])) + more
        raise ValueError(f"{folder}: not finished: --shard {names}; run it again, then merge.")
    return Shard.all(count)
