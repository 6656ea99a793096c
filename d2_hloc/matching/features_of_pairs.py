"""Features that matches were made from: every pair notes them, and is stale when they change."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from d2_hloc.files import features_h5
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.files.staged_h5 import Record, Staged
from d2_hloc.matching.pairs import Pair

logger = logging.getLogger(__name__)

NOTED = "features_crc32"  # attribute of a pair's matches: digests of both images' features


@dataclass(frozen=True)
class FeaturesOfPairs:
    """Digests of both images' features by the key of their pair, in either order."""

    digests: Mapping[str, str]

    @classmethod
    def read(cls, file0: GuardedFile, file1: GuardedFile, pairs: Sequence[Pair]) -> FeaturesOfPairs:
        """Read the digests of pairs whose images are both there."""
        of0 = features_h5.image_digests(file0, dict.fromkeys(p[0] for p in pairs))
        if file0.filename == file1.filename:
            of0 |= features_h5.image_digests(file0, {p[1] for p in pairs} - set(of0))
            of1 = of0
        else:
            of1 = features_h5.image_digests(file1, dict.fromkeys(p[1] for p in pairs))
        forth = {features_h5.pair_key(a, b): f"{of0[a]:08x} {of1[b]:08x}" for a, b in pairs}
        if of0 is not of1:
            return cls(forth)
        back = {features_h5.pair_key(b, a): f"{of0[b]:08x} {of0[a]:08x}" for a, b in pairs}
        return cls(back | forth)

    def noted(self, key: str, record: Record) -> Record:
        """Return the record of a pair with the digests that belong to it."""
        matches = record["matches0"]
        attributes = matches.attributes | {NOTED: self.digests[key]}
        return record | {"matches0": replace(matches, attributes=attributes)}

    def drop_stale(self, staged: Staged) -> None:
        """Delete the records of pairs whose features are not those that they were made from."""
        if stale := staged.drop(self._is_stale):
            text = "%s: %s has other features now; %d pairs are matched anew."
            logger.warning(text, staged.path, stale[0], len(stale))

    def refuse_stale(self, merged: Path) -> None:
        """Raise StorageError if a file of all shards was made from other features of a pair."""
        if not self.digests or not merged.exists():
            return
        with features_h5.open_h5(merged) as file:
            for key in self.digests:
                if key in file and self._is_stale(file, key):
                    raise features_h5.StorageError(
                        f"{merged}: was made from other features of {key}; delete it, with its "
                        "shards, or choose another output."
                    )

    def _is_stale(self, file: GuardedFile, key: str) -> bool:
        """Tell whether a pair notes other features; those of other programs note none."""
        if key not in self.digests:
            return False
        noted = file[key]["matches0"].attrs.get(NOTED)
        return noted is not None and str(noted) != self.digests[key]
