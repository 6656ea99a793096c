"""Names of images: each is a path below the folder of images, never out of it.

Names come from models, databases and lists that may be a stranger's, and files are read and written
by them. Every reader of such a file passes its names through image_name().
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Iterable
from pathlib import PurePosixPath, PureWindowsPath

SHOWN = 80  # characters of a name that an error repeats
LONGEST = 1024  # characters
FILE_END = re.compile(r"\.[A-Za-z]\w{1,4}$")  # of a file's name: a suffix
STEERING = {"Cc", "Zl", "Zp"}  # controls, and what ends a line


class UnsafeName(ValueError):
    """A name that leads out of the folder of images; the text names the file and the entry."""


def image_name(name: object, where: object) -> str:
    """Return the name of an image, if it stays below the folder that it is looked up in.

    The same image has one name: './a.jpg' and './/a.jpg' are 'a.jpg'.

    Args:
        name: as a file has it, relative to the folder of images, with '/' between folders.
        where: the file, and the line or entry in it; begins the text of an error.

    Raises:
        UnsafeName: if the name is no text, empty or very long, is absolute, leads upwards by '..',
            or holds control characters or what is no UTF-8.
    """
    text = str(name)
    reason = name_problem(text) if isinstance(name, str) else "is no text"
    if reason is not None:
        raise UnsafeName(f"{where}: the image name {shown(text)} {reason}, so it is not used.")
    return PurePosixPath(text).as_posix()


def image_names(names: Iterable[object], where: object) -> list[str]:
    """Return the names of images, if all of them pass image_name().

    Raises:
        UnsafeName: for the first that does not.
    """
    return [image_name(name, where) for name in names]


def shown(name: str) -> str:
    """Return the name as an error repeats it: quoted, in one line, cut where it is long."""
    return ascii(name if len(name) <= SHOWN else f"{name[:SHOWN]}...")


def split_entry(line: str, words: Container[str] = ()) -> tuple[str, list[str]]:
    """The name that begins a line of a list, and the fields after it, a word of `words` or numbers.

    A tab ends the name. Without one a name may hold spaces all the same: it ends before the first
    of `words`, or before the numbers that end the line; and after the last part that looks as the
    end of a file's name, where there is one.
    """
    if "\t" in line:
        name, _, rest = line.partition("\t")
        return name.strip(), rest.split()
    spans = [match.span() for match in re.finditer(r"\S+", line)]
    parts = [line[start:end] for start, end in spans]
    end = next((k for k in range(1, len(parts)) if parts[k] in words), len(parts))
    if end == len(parts):
        while end > 1 and is_number(parts[end - 1]):
            end -= 1
    files = [k for k in range(end) if FILE_END.search(parts[k])]
    end = files[-1] + 1 if files else end
    return (line[spans[0][0] : spans[end - 1][1]], parts[end:]) if parts else ("", [])


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def has_space(name: str) -> bool:
    """Whether lists have to end a name by a tab."""
    return name.split() != [name]


def name_problem(name: str) -> str | None:
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
