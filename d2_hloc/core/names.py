"""Names of images: each is a path below the folder of images, never out of it.

Names come from models, databases and lists that may be a stranger's, and files are read and written
by them. Every reader of such a file passes its names through image_name().
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PureWindowsPath

SHOWN = 80  # characters of a name that an error repeats
LONGEST = 1024  # characters
STEERING = {"Cc", "Zl", "Zp"}  # controls, and what ends a line


class UnsafeName(ValueError):
    """A name that leads out of the folder of images; the text names the file and the entry."""


def image_name(name: object, where: object) -> str:
    """Return the name of an image, if it stays below the folder that it is looked up in.

    Args:
        name: as a file has it, relative to the folder of images, with '/' between folders.
        where: the file, and the line or entry in it; begins the text of an error.

    Raises:
        UnsafeName: if the name is no text, empty or very long, is absolute, leads upwards by '..',
            or holds control characters or what is no UTF-8.
    """
    text = str(name)
    reason = _reason(text) if isinstance(name, str) else "is no text"
    if reason is not None:
        raise UnsafeName(f"{where}: the image name {shown(text)} {reason}, so it is not used.")
    return text


def image_names(names: Iterable[object], where: object) -> list[str]:
    """Return the names of images, if all of them pass image_name().

    Raises:
        UnsafeName: for the first that does not.
    """
    return [image_name(name, where) for name in names]


def shown(name: str) -> str:
    """Return the name as an error repeats it: quoted, in one line, cut where it is long."""
    return ascii(name if len(name) <= SHOWN else f"{name[:SHOWN]}...")


def _reason(name: str) -> str | None:
    """Say what is wrong with a name; None where nothing is.

    Both systems' separators count on both: what a list made on one does may be read on the other.
    """
    parts = name.replace("\\", "/").split("/")
    if not name.strip("/\\. "):
        return "names no file"
    if len(name) > LONGEST:
        return f"has more than {LONGEST} characters"
    if name.startswith(("/", "\\")) or PureWindowsPath(name).drive:
        return "is absolute"
    if ".." in parts:
        return "leads out of the folder of images"
    kinds = {unicodedata.category(c) for c in name}
    if kinds & STEERING:
        return "holds control characters"
    if "Cs" in kinds:  # half of a character; a byte that is no UTF-8 is read as one
        return "cannot be written in UTF-8"
    return None
