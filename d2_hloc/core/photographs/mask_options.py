"""Options of masks; nothing heavy is loaded here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """Parts of images that are ignored: those that are black in a mask, or wholly transparent.

    Attributes:
        folder: masks in COLMAP's form, name.jpg.png for name.jpg; black is ignored.
        alpha: wholly transparent pixels of an image are ignored.
    """

    folder: Path | None = None
    alpha: bool = False

    @property
    def are_asked_for(self) -> bool:
        """Whether there is anything to ignore."""
        return self.folder is not None or self.alpha
