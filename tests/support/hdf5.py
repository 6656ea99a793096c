"""Everything that an HDF5 file holds, to compare files by."""

import json
from pathlib import Path
from typing import Any

import h5py


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Datasets by name - type, shape, bytes, attributes - through links; the file's attributes."""
    found = {}

    def walk(prefix: str, group: h5py.Group) -> None:
        for name in group:
            item = group[name]
            if isinstance(item, h5py.Group):
                walk(f"{prefix}{name}/", item)
            else:
                values = (str(item.dtype), item.shape, item[()].tobytes(), dict(item.attrs))
                found[prefix + name] = values

    with h5py.File(path, "r") as file:
        walk("", file)
        return found, {k: json.loads(v) for k, v in file.attrs.items()}


def links(path: Path) -> int:
    """How many records are in other files."""

    def count(group: h5py.Group) -> int:
        found = 0
        for name in group:
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                found += 1
            elif isinstance(group[name], h5py.Group):
                found += count(group[name])
        return found

    with h5py.File(path, "r") as file:
        return count(file)
