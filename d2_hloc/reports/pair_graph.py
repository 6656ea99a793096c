"""The pair graph of a reconstruction: numbers of verified matches between its images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from d2_hloc.sfm.database import Links


def link_matrix(links: Links, names: Sequence[str]) -> Int[np.ndarray, "N N"]:
    """Numbers of verified matches between each two of these images; 0 where there are none."""
    return np.array([[links.get(a, {}).get(b, 0) for b in names] for a in names], dtype=int)
