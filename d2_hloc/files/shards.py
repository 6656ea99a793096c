"""A step in n shards, each a file of its own: for arrays of jobs, and for the workers of a cluster.

Shard 3/16 of features.h5 is `features.h5.shards/0003-of-0016.h5`, a file in hloc's format as the
whole is. merging.py makes one file of them.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from d2_hloc.core.engines import ShardDone
from d2_hloc.files.atomic import refuse_links, write_atomically
from d2_hloc.files.lock import FileLock
from d2_hloc.files.staged_h5 import Staged

logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST = 9999  # shards of a file


@dataclass(frozen=True)
class Shard:
    """One of `count` nearly equal parts of a list; `index` is from 1 to `count`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count <= MOST:
            raise ValueError(f"shard {self}: i/n takes i from 1 to n, and n up to {MOST}.")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """'3/16'. Arrays that count from 0 are understood too: 0/16 is another name of 16/16.

        Raises:
            ValueError: for anything else.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None:
            raise ValueError(f"shard {text!r}: expected i/n, such as 3/16.")
        index, count = int(found[1]), int(found[2])
        return cls(index or count, count)

    @classmethod
    def all(cls, count: int) -> list[Shard]:
        """Every shard of so many."""
        return [cls(k + 1, count) for k in range(count)]

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """This shard's run of the items, neighbours together."""
        first, last = (len(items) * k // self.count for k in (self.index - 1, self.index))
        return items[first:last]


WHOLE = Shard(1, 1)


def shards_folder(output: Path) -> Path:
    """Folder of the shards of a file."""
    return output.with_name(output.name + ".shards")


def shard_path(output: Path, shard: Shard) -> Path:
    """A shard's own file."""
    return shards_folder(output) / f"{shard.index:04d}-of-{shard.count:04d}.h5"


def is_finished(output: Path, shard: Shard) -> bool:
    """True if the shard's file is there and nothing waits to go into it."""
    path = shard_path(output, shard)
    return path.is_file() and not path.with_name(path.name + ".parts").exists()


def shard_count(output: Path) -> int | None:
    """Number of shards that the file is being made in; None if in none.

    Raises:
        ValueError: if there are shards of several counts.
    """
    folder = shards_folder(output)
    found = (re.match(r"\d{4}-of-(\d{4})\.", p.name) for p in folder.glob("*-of-*"))
    counts = sorted({int(match[1]) for match in found if match})
    if len(counts) > 1:
        listed = " and of ".join(map(str, counts))
        raise ValueError(f"{folder}: holds shards of {listed}; delete those that are not wanted.")
    return counts[0] if counts else None


def note_items(output: Path, items: Sequence[Any]) -> None:
    """Warn where other shards of a file were cut from another list than this one's."""
    record = shards_folder(output) / "items"
    found = f"{len(items)} items, {zlib.crc32(repr(list(items)).encode()):08x}"
    record.parent.mkdir(parents=True, exist_ok=True)
    before = record.read_text() if record.is_file() else None
    if before == found:
        return
    if before is not None:
        logger.warning(
            "%s: was cut from another list (%s there, %s now); run all of its shards again before "
            "they are merged, or items are missing.",
            record.parent, before.split(",")[0], found.split(",")[0],
        )  # fmt: skip
    write_atomically(record, found.encode())


def shard_done(output: Path, shard: Shard) -> ShardDone:
    """The end of a command that made a shard of a file, and whose next step needs all of them."""
    return ShardDone(
        f"{output}: shard {shard} is there. When all {shard.count} are, run 'd2-hloc merge "
        f"{output}', and then all shards of this command again."
    )


def end_of_shards(engine: object, folder: Path) -> None:
    """End the command of a shard once nothing is left that is made in shards.

    Raises:
        ShardDone: if `engine` is a shard.
    """
    if isinstance(engine, Shard):
        raise ShardDone(
            f"{folder}: all its features and matches are there; run the command without --shard "
            "for the rest."
        )


@contextmanager
def staged_shard(
    output: Path, shard: Shard | None, configuration: dict[str, Any], marker: str
) -> Iterator[Staged]:
    """The file that a step writes: a shard's, or for None `output` itself.

    Raises:
        ValueError: if `output` is being made in another number of shards.
        Busy: if another process is at work on the shard.
        ConfigurationChanged, DiskFull: as staged_h5.Staged.
    """
    if shard is None:
        with Staged(output, configuration, marker) as staged:
            yield staged
        return
    folder = shards_folder(output)
    refuse_links(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (begun := shard_count(output)) not in (None, shard.count):
        raise ValueError(
            f"{folder}: holds shards of {begun}, not of {shard.count}; "
            "go on with that number, or delete the folder."
        )
    path = shard_path(output, shard)
    with (
        FileLock(path.with_suffix(".lock")),
        Staged(path, configuration, marker, output) as staged,
    ):
        yield staged
