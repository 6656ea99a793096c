"""Images below a folder: which files are images, and which of them can be read here."""

from __future__ import annotations

import importlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

EXTENSIONS = {".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"}
HEIC, AVIF = {".heic", ".heif"}, {".avif"}
RAW = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf"}
NEVER = RAW | {".gif", ".jp2", ".jxl", ".exr", ".hdr", ".psd", ".svg"}
REMEDIES = (
    (HEIC, "HEIC is read after: pip install pillow-heif"),
    (AVIF, "AVIF is read by Pillow from 11.3 on: pip install -U pillow"),
    (NEVER, "save the others as JPEG or PNG"),
)
RUN_RECORD, DENSE_RECORD = "run.json", "dense.json"  # in a folder that a run of ours made
SHOWN = 3  # names of ignored files


class ImageError(ValueError):
    """An image that cannot be used; the text names the file and the reason."""


def readable_extensions() -> set[str]:
    """Suffixes of images that can be read here, in lower case; makes Pillow read HEIC if it can.

    Pillow is loaded here and not with the module, of which commands need the constants.
    """
    found = set(EXTENSIONS)
    pillow = importlib.import_module("PIL.features")
    if "avif" in pillow.modules and pillow.check("avif"):
        found |= AVIF
    return found | HEIC if makes_pillow_read_heic() else found


def makes_pillow_read_heic() -> bool:
    """Whether pillow-heif is there; Pillow reads HEIC from then on."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except (ImportError, AttributeError):
        return False
    return True


def list_images(folder: Path) -> list[str]:
    """Names of the images below `folder`, relative to it, sorted.

    Links to folders are followed, each folder once. Folders and files whose names begin with a dot
    are left out, and folders that a run of this program made. Images that cannot be read here are
    counted, and the log names some.

    Raises:
        ImageError: if the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder}: there is no such folder of images.")
    readable = readable_extensions()
    names, ignored = [], defaultdict(list)
    for path in _files_below(folder):
        name, suffix = path.relative_to(folder).as_posix(), path.suffix.lower()
        if suffix in readable:
            names.append(name)
        elif suffix in HEIC | AVIF | NEVER:
            ignored[suffix].append(name)
    said = _ignored_text(ignored)
    if not names:
        why = said or f"holds no image ({', '.join(sorted(EXTENSIONS))})."
        raise ImageError(f"{folder}: {why}")
    if said:
        logger.warning("%s: %s", folder, said)
    return sorted(names)


def _files_below(folder: Path) -> Iterator[Path]:
    """Files below a folder; real folders come before links that may lead to them."""
    seen, waiting, linked = set(), [folder], []
    while waiting or linked:
        current = waiting.pop() if waiting else linked.pop()
        try:
            status = current.stat()
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            logger.warning("%s: cannot be looked into (%s)", current, error.strerror)
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        if current != folder and any(e.name in (RUN_RECORD, DENSE_RECORD) for e in entries):
            logger.info("%s: was made by a run, and its images are left out", current)
            continue
        for entry in entries:
            path = current / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (linked if entry.is_symlink() else waiting).append(path)
            elif entry.is_file():
                yield path


def _ignored_text(ignored: dict[str, list[str]]) -> str:
    """A sentence about files that are images and cannot be read, with the remedy; or nothing."""
    if not ignored:
        return ""
    names = sorted(name for found in ignored.values() for name in found)
    kinds = ", ".join(f"{len(found)} {suffix}" for suffix, found in sorted(ignored.items()))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    remedies = [text for suffixes, text in REMEDIES if suffixes & set(ignored)]
    images = "1 image" if len(names) == 1 else f"{len(names)} images"
    shown = f"{kinds}: {', '.join(names[:SHOWN])}{more}"
    return f"{images} cannot be read here ({shown}); {'; '.join(remedies)}."
