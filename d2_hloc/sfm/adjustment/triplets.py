"""Relative rotations over triplets of images: pairs that join what does not belong together.

Around three images the relative rotations of their pairs come back to where they began. A pair that
repeated facades led astray does so in no triplet. Zach, Klopschitz and Pollefeys, "Disambiguating
visual relations using loop constraints", CVPR 2010.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2_hloc.files.colmap import open_database, verified_pairs
from d2_hloc.matching.pairs import Pair

MAX_ERROR = 45.0  # degrees: a pose that guesses bend by less may be of matches that are needed
MIN_TRIPLETS = 3  # of a pair: fewer tell nothing

Rotations = dict[Pair, np.ndarray]  # (3, 3), from the first image's camera to the second's


@dataclass(frozen=True, kw_only=True)
class ContradictedPair:
    """A pair that no triplet agrees with."""

    pair: Pair
    inliers: int
    triplets: int
    error: float  # degrees, around the triplet that agrees best


def contradicted_pairs(
    database: Path, max_error: float = MAX_ERROR, min_triplets: int = MIN_TRIPLETS
) -> list[ContradictedPair]:
    """Verified pairs that are in enough triplets and agree with none of them, in order of names.

    A collection too small for `min_triplets`, or a chain of images, has none.
    """
    rotations, inliers = _rotations(database)
    neighbours: dict[str, set[str]] = defaultdict(set)
    for name0, name1 in rotations:
        neighbours[name0].add(name1)
        neighbours[name1].add(name0)
    found = []
    for pair in sorted(rotations):
        others = sorted(neighbours[pair[0]] & neighbours[pair[1]])
        if len(others) < min_triplets:
            continue
        error = float(loop_errors(rotations, pair, others).min())
        if error > max_error:
            found.append(
                ContradictedPair(
                    pair=pair, inliers=inliers[pair], triplets=len(others), error=error
                )
            )
    return found


def loop_errors(rotations: Rotations, pair: Pair, others: list[str]) -> np.ndarray:
    """Angles (K,), degrees, by which the rotations around a pair and each other image miss."""
    onwards = np.stack([_between(rotations, pair[1], other) for other in others])
    back = np.stack([_between(rotations, other, pair[0]) for other in others])
    loops = back @ onwards @ rotations[pair]
    return np.degrees(np.arccos(np.clip((np.trace(loops, axis1=1, axis2=2) - 1) / 2, -1, 1)))


def _between(rotations: Rotations, name0: str, name1: str) -> np.ndarray:
    return rotations[name0, name1] if (name0, name1) in rotations else rotations[name1, name0].T


def _rotations(database: Path) -> tuple[Rotations, dict[Pair, int]]:
    """Relative rotations and inliers of the verified pairs whose geometry has a pose."""
    rotations, inliers = {}, {}
    with open_database(database) as db:
        names = {image.image_id: image.name for image in db.read_all_images()}
        for image0, image1, count in verified_pairs(db):
            pose = db.read_two_view_geometry(image0, image1).cam2_from_cam1
            if pose is not None:
                pair = names[image0], names[image1]
                rotations[pair], inliers[pair] = pose.rotation.matrix(), count
    return rotations, inliers


def without_pairs(database: Path, pairs: Collection[Pair], output: Path) -> Path:
    """Copy a database, leaving out the two-view geometries of some pairs."""
    shutil.copyfile(database, output)
    with open_database(output) as db:
        ids = {image.name: image.image_id for image in db.read_all_images()}
        for name0, name1 in pairs:
            db.delete_two_view_geometry(ids[name0], ids[name1])
            db.delete_matches(ids[name0], ids[name1])
    return output
