"""Text files: lists of pairs, intrinsics, poses that a user gives, and records in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Raises:
        ValueError: in one sentence, for a file that is missing, unreadable or not text.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe has no end to wait for
        raise ValueError(f"{path}: is a pipe, a socket or a device, and no text file.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: is not text in UTF-8 (byte {error.start}); save it as that."
        ) from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers; '#' begins a comment line.

    Raises:
        ValueError: as read_text.
    """
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line


def parse_json(text: str | bytes) -> dict[str, Any]:
    """Keys and values of a JSON text.

    Raises:
        ValueError: if it is none, holds no keys, or is nested too deeply.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it holds no keys and values")
    return found


def read_json_file(path: Path, remedy: str = "delete it and run again") -> dict[str, Any]:
    """Keys and values of a JSON file.

    Raises:
        ValueError: if it cannot be read or is damaged; the text ends with the remedy.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: is damaged; {remedy}.") from error
