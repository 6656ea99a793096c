"""Two-view geometry of matches that are refined before hypotheses are drawn, and spread after.

A keypoint of D2-Net is off by some pixels, and among matches to within four of a line many are
there by chance. Refined ones lie within one; a wrong match mostly cannot be refined, or fits no
geometry afterwards. Where the geometry is found, the keypoints between its inliers are looked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from d2_hloc.core.pixels import from_colmap, to_colmap
from d2_hloc.files.colmap import pycolmap
from d2_hloc.matching.guided import epipolar_distances, transfer_distances
from d2_hloc.refinement.options import SpreadingOptions
from d2_hloc.refinement.spreading import FEWEST, PlacedMatches, Search, spread_matches
from d2_hloc.sfm.options import VerificationOptions
from d2_hloc.sfm.two_view import Config, supported
from d2_hloc.sfm.verification import PairToVerify, guide_of, verify_one

MOVED_ERROR = 2.0  # pixels, of images as extracted from, of matches refined by uncertain neighbours
BAND = 2.0  # times the error after refinement, of a match that is spread
ENOUGH = 16  # supported matches, to fit local affinities to these alone


@dataclass(frozen=True, kw_only=True)
class RefinedPair:
    """The geometry of a pair, and where its inliers' keypoints of image 1 were found.

    Attributes:
        geometry: with inlier_matches (M, 2), keypoint indices.
        keypoints1: (N1, 2) of image 1, those of inliers moved; COLMAP's pixels.
    """

    geometry: pycolmap.TwoViewGeometry
    keypoints1: np.ndarray

    @property
    def inliers(self) -> np.ndarray:
        """Keypoint indices (M, 2)."""
        return self.geometry.inlier_matches.astype(np.int64).reshape(-1, 2)


def verify_refined(
    options: VerificationOptions,
    spreading: SpreadingOptions | None,
    pair: PairToVerify,
    search: Search,
    seed: int = 0,
) -> RefinedPair:
    """The geometry of a pair whose matches are refined before it is estimated.

    Args:
        options: thresholds.
        spreading: how matches spread around the inliers; None: they do not.
        pair: matches, and keypoints as they were found.
        search: of the pair's images; places are of pixels whose centres are at integers.
        seed: the same one gives the same result.

    Returns:
        The geometry of most inliers, of those that refined and raw matches lead to.
    """
    pair = replace(pair, descriptors=None)
    first = (by(options, pair, search, seed) for by in (_by_refined, _by_raw))
    found = max(first, key=lambda f: len(f.inliers))
    for _ in range(spreading.steps if spreading else 0):
        wider = _spread(options, spreading, pair, found, search, seed) if spreading else found
        if len(wider.inliers) <= len(found.inliers):
            break
        found = wider
    return found


def _by_refined(
    options: VerificationOptions, pair: PairToVerify, search: Search, seed: int
) -> RefinedPair:
    """The geometry by refined matches, those that could be."""
    is_sure = supported(options, pair.points(pair.pairs), pair.noise)
    is_enough = is_sure is not None and is_sure.sum() >= ENOUGH
    around = pair.pairs[is_sure] if is_enough else pair.pairs
    moved, keep = _searched(pair, pair.pairs, around, search)
    strict = replace(options, max_error=min(options.max_error, MOVED_ERROR * pair.noise))
    geometry = verify_one(strict, replace(moved, pairs=pair.pairs[keep]), seed, 0.0)
    return _verified_again(options, pair, geometry, search, seed)


def _by_raw(
    options: VerificationOptions, pair: PairToVerify, search: Search, seed: int
) -> RefinedPair:
    """The geometry by matches as they are: where few can be refined before it is known."""
    geometry = verify_one(options, pair, seed, 0.0)
    return _verified_again(options, pair, geometry, search, seed)


def _searched(
    pair: PairToVerify, matches: np.ndarray, around: np.ndarray, search: Search
) -> tuple[PairToVerify, np.ndarray]:
    """The pair with the matches' (K, 2) keypoints of image 1 moved, and the mask of those found."""
    if not len(matches):
        return pair, np.zeros(0, bool)
    xy0, xy1 = (from_colmap(xy) for xy in pair.keypoints)
    near = xy0[around[:, 0]], xy1[around[:, 1]]
    places, found = search(xy0[matches[:, 0]], xy1[matches[:, 1]], near)
    return _with_places(pair, matches[:, 1], places), found


def _with_places(pair: PairToVerify, index1: np.ndarray, places: np.ndarray) -> PairToVerify:
    keypoints1 = pair.keypoints[1].copy()
    keypoints1[index1] = to_colmap(places)
    return replace(pair, keypoints=(pair.keypoints[0], keypoints1))


def _verified_again(
    options: VerificationOptions,
    pair: PairToVerify,
    geometry: pycolmap.TwoViewGeometry,
    search: Search,
    seed: int,
) -> RefinedPair:
    """Inliers, refined once more by affinities of inliers alone, and their geometry."""
    inliers = geometry.inlier_matches.astype(np.int64).reshape(-1, 2)
    if not len(inliers):
        return RefinedPair(geometry=geometry, keypoints1=pair.keypoints[1])
    moved, _ = _searched(pair, inliers, inliers, search)
    return _conclude(options, moved, inliers, geometry, seed)


def _conclude(
    options: VerificationOptions,
    moved: PairToVerify,
    matches: np.ndarray,
    start: pycolmap.TwoViewGeometry,
    seed: int,
) -> RefinedPair:
    geometry = verify_one(options, replace(moved, pairs=matches, start=start), seed, 0.0)
    return RefinedPair(geometry=geometry, keypoints1=moved.keypoints[1])


def _spread(
    options: VerificationOptions,
    spreading: SpreadingOptions,
    pair: PairToVerify,
    found: RefinedPair,
    search: Search,
    seed: int,
) -> RefinedPair:
    """Inliers and what can be found between them."""
    inliers = found.inliers
    if len(inliers) < FEWEST:
        return found
    placed = replace(pair, keypoints=(pair.keypoints[0], found.keypoints1))
    known = PlacedMatches(
        pairs=inliers,
        xy0=from_colmap(pair.keypoints[0][inliers[:, 0]]),
        xy1=from_colmap(found.keypoints1[inliers[:, 1]]),
    )
    band = BAND * options.refined_max_error * pair.noise

    def fits(xy0: np.ndarray, xy1: np.ndarray) -> np.ndarray:
        at = to_colmap(xy0), to_colmap(xy1)
        # What stands before a plane is looked for as well: of those alone that turned, by H.
        given = replace(placed, keypoints=at), found.geometry, (Config.PANORAMIC,)
        (kept0, kept1), (kind, matrix) = guide_of(*given)
        distances = epipolar_distances if kind == "F" else transfer_distances
        return distances(matrix, kept0, kept1) < band

    keypoints = from_colmap(pair.keypoints[0]), from_colmap(pair.keypoints[1])
    more = spread_matches(spreading, keypoints, known, search, fits, pair.noise)
    if not len(more):
        return found
    moved = _with_places(placed, more.pairs[:, 1], more.xy1)
    both = np.concatenate([inliers, more.pairs])
    return _conclude(options, moved, both[np.argsort(both[:, 0])], found.geometry, seed)
