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
    found = []
    with h5py.File(path, "r") as file:
        file.visititems_links(lambda _, link: found.append(isinstance(link, h5py.ExternalLink)))
    return sum(found)
