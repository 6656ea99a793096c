"""Matches spread around refined ones: where these lead, the other image is searched for more.

Descriptors find less than half of the keypoints that two images share. Matches that were refined
say to a few pixels where the keypoints between them are seen in the other image, and there the
shallow maps tell to a fraction of one. The nearest keypoint of the other image, which is mostly of
the same thing, gives such a match its index, so that it can be part of a track.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from d2_hloc.refinement.options import SpreadingOptions

Points = Float[np.ndarray, "K 2"]  # pixels
# Finds in the second image, near the second points, what the first one shows at the first; matches
# of both images come with it. Places, and a mask of those that were found.
Search = Callable[[Points, Points, tuple[Points, Points]], tuple[Points, Bool[np.ndarray, " K"]]]
# Mask of the matched points that a geometry allows.
Fits = Callable[[Points, Points], Bool[np.ndarray, " K"]]

FEWEST = 8  # matches that others are looked for around
SIGHT = 30.0  # pixels at which a match around counts less by e, for a local affinity
RIDGE = 50.0  # square pixels; draws a local affinity to that of the whole image
NEAREST = 3  # keypoints about a place, of which a free one gives its index
FAR = 4.0  # pixels more than `snap` that a keypoint may be from where one is expected


@dataclass(frozen=True, kw_only=True)
class PlacedMatches:
    """Matches of two images, and where both their keypoints were found."""

    pairs: Int[np.ndarray, "K 2"]
    xy0: Points
    xy1: Points

    def __len__(self) -> int:
        return len(self.pairs)

    def of(self, keep: np.ndarray) -> PlacedMatches:
        """The matches of a mask, or of indices."""
        return PlacedMatches(pairs=self.pairs[keep], xy0=self.xy0[keep], xy1=self.xy1[keep])

    def joined(self, other: PlacedMatches) -> PlacedMatches:
        """These and others."""
        return PlacedMatches(
            pairs=np.concatenate([self.pairs, other.pairs]),
            xy0=np.concatenate([self.xy0, other.xy0]),
            xy1=np.concatenate([self.xy1, other.xy1]),
        )


def spread_matches(
    options: SpreadingOptions,
    keypoints: tuple[Float[np.ndarray, "N0 2"], Float[np.ndarray, "N1 2"]],
    known: PlacedMatches,
    search: Search,
    fits: Fits,
    noise: float = 1.0,
) -> PlacedMatches:
    """Matches of keypoints that none of `known` has, about these; `known` are not among them.

    Args:
        options: how far from known matches others are looked for.
        keypoints: (N0, 2), (N1, 2) of both images, pixels.
        known: matches that were refined.
        search: finds the places.
        fits: tells those that are allowed.
        noise: pixels of the images in one of those that keypoints were found in.
    """
    free0, free1 = (
        np.setdiff1d(np.arange(len(xy)), taken)
        for xy, taken in zip(keypoints, known.pairs.T, strict=True)
    )
    if len(known) < FEWEST or not len(free1):
        return known.of(np.zeros(len(known), bool))
    tree1 = KDTree(keypoints[1][free1])
    index0, expected = _expected(options, keypoints[0][free0], known, noise)
    index0, xy0 = free0[index0], keypoints[0][free0[index0]]
    is_near = tree1.query(expected)[0] < (options.snap + FAR) * noise
    index0, xy0, expected = index0[is_near], xy0[is_near], expected[is_near]
    if len(index0):
        places, keep = search(xy0, expected, (known.xy0, known.xy1))
        keep = keep & fits(xy0, places)
        index0, xy0, expected = index0[keep], xy0[keep], places[keep]
    taken1 = np.zeros(len(free1), bool)
    snapped = free_keypoints(tree1, taken1, expected, options.snap * noise, NEAREST)
    rows = np.flatnonzero(snapped >= 0)
    pairs = np.stack([index0[rows], free1[snapped[rows]]], axis=1)
    return PlacedMatches(pairs=pairs, xy0=xy0[rows], xy1=expected[rows])


def _expected(
    options: SpreadingOptions, xy0: Points, known: PlacedMatches, noise: float
) -> tuple[Int[np.ndarray, " M"], Float[np.ndarray, "M 2"]]:
    """Which of the places (K, 2) lie near matches that agree, and where these lead (M, 2).

    Each by an affinity fitted to the nearest matches.
    """
    count = min(options.neighbours, len(known))
    found = KDTree(known.xy0).query(xy0, k=count)
    distances, nearest = np.asarray(found[0]), np.asarray(found[1])
    index = np.flatnonzero(distances[:, min(3, count - 1)] < options.reach * noise)
    distances, nearest = distances[index], nearest[index]
    offsets = known.xy0[nearest] - xy0[index, None]
    offsets = np.concatenate([offsets, np.ones((*offsets.shape[:2], 1))], axis=2)
    weighted = offsets * np.exp(-distances / (SIGHT * noise))[..., None]
    targets, ridge = known.xy1[nearest], RIDGE * noise**2
    normal = np.einsum("kni,knj->kij", weighted, offsets) + np.diag([ridge, ridge, 1e-6])
    right = np.einsum("kni,knj->kij", weighted, targets)
    right[:, :2] += ridge * _affinity_of_all(known)
    affinities = np.linalg.solve(normal, right)
    residuals = np.linalg.norm(offsets @ affinities - targets, axis=2)
    agree = np.median(residuals, axis=1) < options.agreement * noise
    return index[agree], affinities[agree, 2]


def _affinity_of_all(known: PlacedMatches) -> Float[np.ndarray, "2 2"]:
    """The affinity that suits all matches best; offsets are rows that it is multiplied to."""
    offsets = known.xy0 - known.xy0.mean(axis=0)
    found = np.linalg.lstsq(np.c_[offsets, np.ones(len(offsets))], known.xy1, rcond=None)
    return found[0][:2]


def free_keypoints(
    tree: KDTree,
    is_taken: Bool[np.ndarray, " N"],
    places: Float[np.ndarray, "M 2"],
    reach: float,
    nearest: int = 4,
) -> Int[np.ndarray, " M"]:
    """For each place a keypoint of the tree near it that no other place has, -1: there is none.

    The nearest two come first. Of a place its `nearest` keypoints are looked at.
    """
    taken = is_taken.copy()
    found = np.full(len(places), -1)
    count = min(nearest, tree.n)
    distances, near = tree.query(places, k=count, distance_upper_bound=reach)
    distances, near = (x.reshape(-1, count) for x in (distances, near))
    for flat in np.argsort(distances, axis=None, kind="stable").tolist():
        row, column = divmod(flat, count)
        if not np.isfinite(distances[row, column]):
            break
        if found[row] < 0 and not taken[near[row, column]]:
            found[row] = near[row, column]
            taken[near[row, column]] = True
    return found
