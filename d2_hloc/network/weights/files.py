"""The file of a name or path, its digest, and the state of the trunk in it."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from d2_hloc.files.provenance import file_sha256
from d2_hloc.network.weights.catalogue import BUNDLED, PUBLISHED, WeightsError, cached_file
from d2_hloc.network.weights.state import read_state, to_backbone

logger = logging.getLogger(__name__)


def load_weights(source: str) -> dict[str, Tensor]:
    """State of a Backbone from a bundled or downloaded name, or from the path of a checkpoint.

    Raises:
        WeightsError: if there is no such file, it was changed since its download, or it does not
            hold VGG16's layers up to conv4_3.
    """
    path = locate_weights(source)
    if source in PUBLISHED:
        _tell_digest(source, path)
    return to_backbone(read_state(path), path)


def locate_weights(source: str) -> Path:
    """The file behind a name or a path, its digest checked if it is a download.

    Raises:
        WeightsError: if it is not there, or was changed since its download.
    """
    if source in BUNDLED:
        return BUNDLED[source]
    if source not in PUBLISHED:
        if Path(source).is_file():
            return Path(source)
        names = ", ".join([*BUNDLED, *PUBLISHED])
        raise WeightsError(f"{source}: there is no such file, and the names known are {names}.")
    path = cached_file(source)
    if not path.is_file():
        raise WeightsError(
            f"{path}: the weights {source} are not here; run 'd2-hloc weights {source}', "
            f"or put {PUBLISHED[source].url} there."
        )
    check_digest(path, recorded_digest(path) or PUBLISHED[source].sha256)
    return path


def check_digest(path: Path, expected: str | None) -> None:
    """Raise WeightsError where a file's SHA-256 does not begin with `expected`."""
    if expected is not None and not file_sha256(path).startswith(expected.lower()):
        raise WeightsError(
            f"{path}: its SHA-256 is {file_sha256(path)}, not {expected}: it was changed or cut "
            "short; download it again."
        )


def recorded_digest(path: Path) -> str | None:
    """The digest that the download found, if it was recorded.

    Raises:
        WeightsError: if the record holds no digest.
    """
    record = digest_file(path)
    if not record.is_file():
        return None
    digest = record.read_text(errors="replace").strip()
    if len(digest) != 64:
        raise WeightsError(f"{record}: holds no SHA-256; delete it and download the weights again.")
    return digest


def digest_file(path: Path) -> Path:
    """The record of a download's digest, beside its file."""
    return path.with_suffix(".sha256")


def _tell_digest(name: str, path: Path) -> None:
    """Log what the digest of published weights was compared with."""
    if recorded_digest(path):
        logger.info("%s: the SHA-256 is that of the download.", name)
    elif PUBLISHED[name].sha256:
        logger.info("%s: the SHA-256 begins as the published one.", name)
    else:
        logger.warning(
            "%s: is not verified, since there is no %s beside it; its SHA-256 is %s.",
            path, digest_file(path).name, file_sha256(path),
        )  # fmt: skip
