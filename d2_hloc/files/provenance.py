"""Compare the configuration that made a file with the one that asks for it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


class ConfigurationChanged(ValueError):
    """A file was made with another configuration than the one that now asks for it."""


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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
