"""The pair graph of a reconstruction: numbers of verified matches between its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from d2_hloc.files.colmap import open_database, pycolmap

Links = Mapping[str, Mapping[str, int]]  # verified matches by image and by image


def verified_links(database: Path) -> Links:
    """Numbers of verified matches by image and by image, of a database; pairs of none left out."""
    links: dict[str, dict[str, int]] = {}
    with open_database(database) as db:
        names = {i.image_id: i.name for i in db.read_all_images()}
        for pair_id, count in zip(*db.read_two_view_geometry_num_inliers(), strict=True):
            if count:
                name0, name1 = (names[i] for i in pycolmap.pair_id_to_image_pair(pair_id))
                links.setdefault(name0, {})[name1] = count
                links.setdefault(name1, {})[name0] = count
    return links


def link_matrix(links: Links, names: Sequence[str]) -> Int[np.ndarray, "N N"]:
    """Numbers of verified matches between each two of these images; 0 where there are none."""
    return np.array([[links.get(a, {}).get(b, 0) for b in names] for a in names], dtype=int)
