"""HDF5 files to read, be they a stranger's: plain numbers, and nothing that leads elsewhere.

HDF5 can do more than hold numbers. A dataset's bytes may be those of any other file on the disk
(external storage, virtual datasets), a name may lead to another file (links), a value may be a
reference or text, and a few bytes may stand for numbers without end. What is opened here refuses
all of that in one sentence, when it is asked for. The one exception are the external links of
`merge --link`, which lead to the file's own shards beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from d2_hloc.files.hdf5_datasets import Attributes, GuardedDataset, Refused, reading

__all__ = ["Attributes", "GuardedDataset", "GuardedFile", "GuardedGroup", "Refused"]

DEEPEST = 64  # parts of a name; HDF5 itself follows more until the stack overflows
OWN_SHARD = re.compile(r"[^/\\]+\.shards/\d{4}-of-\d{4}\.h5")


class GuardedGroup:
    """A group of an open file; what is looked up in it is another one, or a dataset."""

    def __init__(self, raw: h5py.Group, file: GuardedFile) -> None:
        self.raw = raw  # for HDF5's own copying, after check_all()
        self._file = file

    @property
    def attrs(self) -> Attributes:
        """The group's attributes."""
        return Attributes(self.raw, self._where(""))

    def __contains__(self, name: str) -> bool:
        """Whether there is something of that name; what it is, is not looked at."""
        group, _, last = name.strip("/").rpartition("/")
        found = self._find(group) if group else self
        return isinstance(found, GuardedGroup) and found.holds(last)

    def holds(self, name: str) -> bool:
        """Whether the group itself has such a name, without '/'."""
        encoded = name.encode(errors="surrogateescape")
        with reading(lambda: self._where(name)):
            return b"\0" not in encoded and bool(encoded) and self.raw.id.links.exists(encoded)

    def __getitem__(self, name: str) -> Any:
        """Look up a GuardedGroup or GuardedDataset; a name may lead through groups, by '/'.

        Raises:
            KeyError: if there is nothing of that name.
            Refused: if it is a dataset that is not read, or on the way there is a link.
        """
        found = self._find(name)
        if found is None:
            raise KeyError(f"{self._where(name)}: is not there")
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """Look up as [name] does; give the default where there is nothing."""
        found = self._find(name)
        return default if found is None else found

    def __iter__(self) -> Iterator[str]:
        with reading(lambda: self._where("")):
            return iter(list(self.raw))

    def __len__(self) -> int:
        with reading(lambda: self._where("")):
            return len(self.raw)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names in the group, and what they stand for."""
        return ((name, self[name]) for name in self)

    def values(self) -> Iterator[Any]:
        """The groups and datasets in the group."""
        return (self[name] for name in self)

    def check_all(self) -> None:
        """Raise Refused for anything below the group that is not read; there are no links then."""
        for name in _links_below(self.raw, self._where(""), h5py.h5l.TYPE_HARD):
            where = self._where(_decoded(name))
            with reading(lambda where=where: where):
                item = h5py.h5o.open(self.raw.id, name)
            if isinstance(item, h5py.h5d.DatasetID):
                dict(GuardedDataset(item, lambda where=where: where).attrs)
            elif not _is_group(item):
                raise Refused(f"{where}: is neither a group nor numbers.")

    def _where(self, name: str) -> str:
        path = "/".join(part for part in (self.raw.name.strip("/"), name) if part)
        return f"{self._file.filename}: {path}" if path else self._file.filename

    def _find(self, name: str) -> Any:
        at, parts = self.raw.id, [part for part in name.split("/") if part]
        if not parts:
            return self
        for k, part in enumerate(parts):
            encoded = part.encode(errors="surrogateescape")
            if not _is_group(at) or b"\0" in encoded:
                return None
            with reading(lambda: self._where(name)):
                if not at.links.exists(encoded):
                    return None
                link = at.links.get_info(encoded).type
            if link == h5py.h5l.TYPE_EXTERNAL:
                path = f"{self.raw.name}/{'/'.join(parts[: k + 1])}".strip("/")
                target = self._file.shard_behind(path, at.links.get_val(encoded))
                return target.get("/".join(parts[k + 1 :])) if parts[k + 1 :] else target
            if link != h5py.h5l.TYPE_HARD:
                raise Refused(f"{self._where(name)}: leads elsewhere by a link, not followed.")
            with reading(lambda: self._where(name)):
                at = h5py.h5o.open(at, encoded)
        if isinstance(at, h5py.h5d.DatasetID):
            return GuardedDataset(at, lambda: self._where(name))
        return GuardedGroup(h5py.Group(at), self._file) if _is_group(at) else None


class GuardedFile(GuardedGroup):
    """A file that is open to read, until the end of `with GuardedFile(path) as file:`.

    Raises:
        OSError: if it is missing, not a regular file, or not HDF5.
    """

    def __init__(self, path: Path, is_shard: bool = False) -> None:
        if path.exists() and not path.is_file():  # HDF5 would wait for a pipe's other end
            raise OSError(f"{path} is not a regular file")
        self._path, self._is_shard = path, is_shard
        self._shards: dict[Path, GuardedFile] = {}
        self.filename = str(path)
        super().__init__(_opened(path), self)

    def __enter__(self) -> GuardedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and the shards that links led to."""
        for file in (*self._shards.values(), self.raw):
            file.close()

    def keys_with(self, *datasets: str) -> set[str]:
        """Paths of the groups, here or in a shard, that hold one of these datasets.

        Raises:
            Refused: for a link to anything but a shard, and for names within names without end.
            ValueError: if the shard that a link leads to is not there.
        """
        wanted = {dataset.encode() for dataset in datasets}
        found, linked = set(), []
        allowed = h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_EXTERNAL
        for name, kind in _links_below(self.raw, self.filename, *allowed).items():
            group, _, last = name.rpartition(b"/")
            if kind == h5py.h5l.TYPE_EXTERNAL:
                linked.append(_decoded(name))
            elif last in wanted and _is_dataset(self.raw, name, self.filename):
                found.add(_decoded(group))
        for name in linked:
            group = self[name]
            if isinstance(group, GuardedGroup) and any(d in group for d in datasets):
                found.add(name)
        return found

    def shard_behind(self, key: str, link: tuple[bytes, bytes]) -> Any:
        """The record that an external link at `key` stands for, where `merge --link` made it.

        `link` is the file that it leads to, and the place in it.

        Raises:
            Refused: for a link to anything else than the same name in a shard beside the file.
            ValueError: if the shard is missing or damaged.
        """
        target, place = map(_decoded, link)
        if self._is_shard or not OWN_SHARD.fullmatch(target) or place.strip("/") != key:
            raise Refused(
                f"{self.filename}: {key} leads to another file by a link, which is not followed."
            )
        path = self._path.parent / target
        try:
            if path not in self._shards:
                self._shards[path] = GuardedFile(path, is_shard=True)
            return self._shards[path][key]
        except (OSError, KeyError) as error:
            raise ValueError(
                f"{self.filename}: keeps {key} in {target}, which is not there or is damaged; "
                "put it back, or delete both and run again."
            ) from error


def _opened(path: Path) -> h5py.File:
    """Open a file whose root is there."""
    file = None
    try:
        file = h5py.File(path, "r")
        file["/"].attrs.keys()
        return file
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        if file is not None:
            file.close()
        raise OSError(f"{path} is damaged or not an HDF5 file") from error


def _links_below(group: h5py.Group, where: str, *allowed: int) -> dict[bytes, int]:
    """Paths of all links below a group, with their types.

    Raises:
        Refused: for a type that is not allowed, and for names within names without end.
    """
    found: dict[bytes, int] = {}

    def visit(name: bytes, link: Any) -> bytes | None:
        found[name] = link.type
        return name if link.type not in allowed or name.count(b"/") >= DEEPEST else None

    with reading(lambda: where):  # h5py's own visitors take three times as long
        stopped = group.id.links.visit(visit, info=True)
    if stopped is None:
        return found
    if found[stopped] in allowed:
        raise Refused(f"{where}: holds groups within groups without end.")
    raise Refused(f"{where}: {_decoded(stopped)} leads elsewhere by a link, not followed.")


def _is_group(item: Any) -> bool:
    return isinstance(item, h5py.h5g.GroupID | h5py.h5f.FileID)


def _is_dataset(group: h5py.Group, name: bytes, where: str) -> bool:
    with reading(lambda: where):
        return h5py.h5o.get_info(group.id, name).type == h5py.h5o.TYPE_DATASET


def _decoded(name: bytes) -> str:
    """Decode a name as h5py does."""
    return name.decode(errors="surrogateescape")
