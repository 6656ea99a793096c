"""Masks in dense stereo: where they are black, maps have no depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from d2_hloc.core.images import open_image


def masked_depth(depth: Float[np.ndarray, "H W"], mask: Path) -> Float[np.ndarray, "H W"]:
    """Set a depth map to 0 where its mask is black; all stays where there is no mask."""
    if not mask.is_file():
        return depth
    return np.where(np.asarray(open_image(mask)).any(axis=2), depth, 0).astype(depth.dtype)
