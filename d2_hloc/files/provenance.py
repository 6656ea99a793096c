"""Compare the configuration that made a file with the one that asks for it; digests of inputs."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2_hloc.core.text import read_json_file
from d2_hloc.files.atomic import refuse_links, write_whole


def file_checksum(*paths: Path) -> tuple[int, int]:
    """Length of a file in bytes and their CRC-32, which tell a file from another, or of several."""
    length = digest = 0
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                length, digest = length + len(block), zlib.crc32(block, digest)
    return length, digest


def is_changed(paths: Sequence[Path], made_from: tuple[int, int], since: float) -> bool:
    """True if files are not those of this file_checksum().

    `since` is the modification time of what was made from them. Files of the same length that are
    older are taken to be the same, but a time in the future says nothing.
    """
    found = [path.stat() for path in paths]
    if sum(status.st_size for status in found) != made_from[0]:
        return True
    newest = max(status.st_mtime for status in found)
    return not newest < since <= time.time() and file_checksum(*paths) != made_from


class ConfigurationChanged(ValueError):
    """A file was made with another configuration than the one that now asks for it."""


def check_configuration(
    where: Path,
    found: dict[str, Any] | None,
    wanted: dict[str, Any],
    remedy: str = "Choose another output.",
    asked_by: str = "Now",
) -> None:
    """Raise ConfigurationChanged, with what differs, unless `where` was made as it is `wanted`.

    `found` is the configuration that `where` holds, None if it holds none. `remedy` ends the
    message, and `asked_by` says whose the configuration `wanted` is.
    """
    there, now = differences(found or {}, wanted)
    if found is None or there != now:
        raise ConfigurationChanged(
            f"{where}: was made with another configuration. There: {json.dumps(there)}. "
            f"{asked_by}: {json.dumps(now)}. {remedy}"
        )


def note_configuration(
    folder: Path, configuration: dict[str, Any], name: str = "configuration.json"
) -> None:
    """Note what makes a folder's files in one of this name, or hold it to what is noted.

    Raises:
        ConfigurationChanged: if it is something else.
        ValueError: if a link is in it.
        DiskFull: if there is no space.
    """
    refuse_links(folder)
    path = folder / name
    wanted = json.loads(json.dumps(configuration))
    if path.is_file():
        remedy = "Delete it or choose another output."
        check_configuration(folder, read_json_file(path), wanted, remedy)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(wanted).encode())


def differences(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys in which two configurations differ, with the values in each."""
    only_old, only_new = {}, {}
    for key in sorted(set(old) | set(new)):
        there, now = old.get(key), new.get(key)
        if isinstance(there, dict) and isinstance(now, dict):
            there, now = differences(there, now)
        if there != now:
            only_old[key], only_new[key] = there, now
    return only_old, only_new


def digest(values: Any) -> str:
    """SHA-256 of the JSON of values: it tells long inputs from others."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
