"""Masks of images: which pixels count. Sizes are those of the stored image."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from d2_hloc.core.images import ImageError, open_alpha, open_image
from d2_hloc.core.photographs.mask_options import MaskOptions

logger = logging.getLogger(__name__)

SUFFIX = ".png"  # COLMAP's: the mask of a/b.jpg is a/b.jpg.png


def check_masks(options: MaskOptions, names: Sequence[str]) -> None:
    """Look for the masks of these images; those without one count wholly, and it is said.

    Raises:
        ImageError: if there is no folder of masks, or it has none of these images.
    """
    folder = options.folder
    if folder is None:
        return
    if not folder.is_dir():
        raise ImageError(f"{folder}: there is no such folder of masks.")
    without = [name for name in names if not (folder / f"{name}{SUFFIX}").is_file()]
    if names and len(without) == len(names):
        raise ImageError(
            f"{folder}: has no mask of any image; the mask of {names[0]} is {names[0]}{SUFFIX}."
        )
    if without:
        logger.warning(
            "%s: has no mask of %d of %d images, which count wholly (the first: %s)",
            folder,
            len(without),
            len(names),
            without[0],
        )


def mask_file(folder: Path | None, name: str) -> Path | None:
    """File of the mask of an image, where there is one."""
    path = None if folder is None else folder / f"{name}{SUFFIX}"
    return path if path is not None and path.is_file() else None


def sources_of(images: Path, name: str, made_by: Mapping[str, Any] | None) -> list[Path]:
    """Photograph, and mask if there is one, that what has this configuration was made from."""
    masks = (made_by or {}).get("masks")
    folder = masks.get("folder") if isinstance(masks, dict) else None
    mask = mask_file(Path(folder) if isinstance(folder, str) else None, name)
    return [images / name] if mask is None else [images / name, mask]


def visible_pixels(
    options: MaskOptions, images: Path, name: str, size: tuple[int, int]
) -> Bool[np.ndarray, "H W"] | None:
    """Which pixels of a stored image of size (w, h) count; None where all do.

    Raises:
        ImageError: if its mask cannot be read, or is of another size.
    """
    visible = None
    path = mask_file(options.folder, name)
    if path is not None:
        mask = open_image(path)
        if mask.size != size:
            raise ImageError(
                f"{path}: is {mask.size[0]} x {mask.size[1]} pixels, and its image {size[0]} x "
                f"{size[1]} as it is stored; save the mask in that size."
            )
        visible = np.asarray(mask).max(axis=2) > 0
    alpha = open_alpha(images / name) if options.alpha else None
    if alpha is not None:
        visible = alpha > 0 if visible is None else visible & (alpha > 0)
    return visible


def are_visible(visible: Bool[np.ndarray, "H W"], xy: np.ndarray) -> Bool[np.ndarray, " N"]:
    """Which places (N, 2) count, by their nearest pixel; those outside do not."""
    height, width = visible.shape
    columns, rows = np.rint(xy).astype(np.int64).reshape(-1, 2).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    found = np.zeros(len(inside), bool)
    found[inside] = visible[rows[inside], columns[inside]]
    return found


def save_mask(path: Path, visible: Bool[np.ndarray, "H W"]) -> None:
    """Write a mask in COLMAP's form: white counts, black is ignored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(visible).convert("L").save(path)
