"""Text files that a user gives: lists of pairs, intrinsics, poses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Raises:
        ValueError: in one sentence, for a file that is missing, unreadable or not text.
    """
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
