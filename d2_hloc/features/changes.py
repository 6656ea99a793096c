"""Photographs and masks that changed since features were made from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from d2_hloc.core.images import ImageError
from d2_hloc.core.photographs.masks import sources_of
from d2_hloc.files import features_h5
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.files.provenance import file_checksum, is_changed
from d2_hloc.files.staged_h5 import Staged


def refuse_changed(images: Path, names: Sequence[str], features: Path) -> None:
    """Raise ImageError for photographs and masks that are not those that features were made from.

    A file of the same size that is older than the features is taken to be the same.
    """
    if not features.is_file():
        return
    since, changed = features.stat().st_mtime, []
    made_by = features_h5.read_configuration(features)
    with features_h5.open_h5(features) as file:
        for name in names:
            if name not in file:  # it waits in a part
                continue
            made_from, paths = (
                features_h5.checksum_of(file, name),
                sources_of(images, name, made_by),
            )
            if made_from is None or not paths[0].is_file():
                continue
            if is_changed(paths, made_from, since):
                changed.append(name)
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ImageError(
            f"{images}: {', '.join(changed[:3])}{more} changed since {features} was made; "
            "choose another output."
        )


def drop_changed(images: Path, staged: Staged) -> None:
    """Delete the parts with an image whose photograph or mask was replaced; it is extracted anew.

    They are compared by their CRCs: a part is written seconds after they were read.
    """

    def is_stale(file: GuardedFile, name: str) -> bool:
        made_from = features_h5.checksum_of(file, name)
        paths = sources_of(images, name, staged.configuration)
        return made_from is not None and paths[0].is_file() and file_checksum(*paths) != made_from

    staged.drop_parts(is_stale)
