"""Compare the configuration that made a file with the one that asks for it; digests of inputs."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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
