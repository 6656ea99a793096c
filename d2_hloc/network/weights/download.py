"""Fetch published weights, check and keep them."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, build_opener

from tqdm import tqdm

from d2_hloc.files.atomic import open_new
from d2_hloc.files.provenance import file_sha256
from d2_hloc.network.weights.catalogue import PUBLISHED, WeightsError, cached_file
from d2_hloc.network.weights.files import check_digest, digest_file
from d2_hloc.network.weights.state import read_state, to_backbone

SCHEMES = ("https", "file")  # what nobody on the way can change
PRIVATE = ".download-"  # begins the name of a folder of an unfinished download
LONGEST = 24 * 3600  # seconds that a download may take
LARGEST = 4 << 30  # bytes of a download: more than any weights here have


def download_weights(name: str, sha256: str | None = None, url: str | None = None) -> Path:
    """Fetch published weights into the cache, check and keep them; they load by name from then on.

    The digest to hold them to is `sha256`, or the published one where there is one. The digest that
    was found is recorded beside the file, and every later load is checked against it.

    Raises:
        WeightsError: for an unknown name, no network, a wrong digest or a file of another form.
    """
    if name not in PUBLISHED:
        raise WeightsError(f"{name}: not a download; known are {', '.join(PUBLISHED)}.")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{1,64}", sha256):
        raise WeightsError(f"{sha256!r}: is no SHA-256 in hexadecimal, nor the beginning of one.")
    target = cached_file(name)
    with private_folder(target) as folder:
        part = folder / f"{name}.part"
        fetch_file(url or PUBLISHED[name].url, part)
        check_digest(part, sha256 or PUBLISHED[name].sha256)
        to_backbone(read_state(part), part)
        record = digest_file(part)
        record.write_text(file_sha256(part) + "\n")
        record.replace(digest_file(target))
        part.replace(target)
    return target


@contextmanager
def private_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, deleted at the end; nobody else can put a link into it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f"{PRIVATE}*"):  # by downloads that were killed
        if time.time() - left.lstat().st_mtime > LONGEST and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=PRIVATE) as folder:
        yield Path(folder)


def fetch_file(url: str, target: Path, remedy: str = "give its path") -> None:
    """Download an address to a new file.

    Raises:
        WeightsError: if it cannot be reached, or it, or the address that it leads to, is not of
            https.
    """
    try:
        check_scheme(url)
        opener = build_opener(RedirectsChecked)
        with opener.open(url, timeout=60) as reply, open_new(target) as file:
            total = int(reply.headers.get("Content-Length") or 0) or None
            with tqdm(total=total, unit="B", unit_scale=True, desc=target.stem) as progress:
                while block := reply.read(1 << 20):
                    file.write(block)
                    progress.update(len(block))
                    if progress.n > LARGEST:
                        raise OSError(f"it has more than {LARGEST >> 20} MiB")
                if total not in (None, progress.n):
                    raise OSError(f"the connection broke off after {progress.n} bytes")
    except (OSError, ValueError, HTTPException) as error:
        raise WeightsError(
            f"{url}: cannot be downloaded ({error}); fetch it on another machine and {remedy}."
        ) from error


class RedirectsChecked(HTTPRedirectHandler):
    """Follows an address to another one only where that is as safe."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        """The request of the new address.

        Raises:
            ValueError: if it is not of https.
        """
        check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_scheme(url: str) -> None:
    """Raise ValueError for an address that is not of https, nor a file of this machine."""
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise ValueError(f"{url} is an address of {scheme or 'nothing'}, and not of https")
