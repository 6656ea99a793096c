"""Matches of queries with cutouts, and the cutouts' points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float

from d2_hloc.benchmarks.inloc.lists import Candidate, Ranked
from d2_hloc.benchmarks.inloc.options import PoseOptions
from d2_hloc.benchmarks.inloc.spatial_verification import verify
from d2_hloc.files import features_h5
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.nearest import MatchingOptions
from d2_hloc.matching.pairs import Pair


@dataclass(frozen=True, kw_only=True)
class PairMatches:
    """Matches of a query with a cutout, pixels of the original images, and the cutout's points."""

    cutout: str
    xy0: Float[np.ndarray, "K 2"]  # in the query
    xy1: Float[np.ndarray, "K 2"]  # in the cutout
    scales0: Float[np.ndarray, " K"]
    scales1: Float[np.ndarray, " K"]
    xyz: Float[np.ndarray, "K 3"]  # metres, in the building's frame; NaN where there is no depth

    def __len__(self) -> int:
        return len(self.xy0)

    def __getitem__(self, chosen: np.ndarray) -> PairMatches:
        """Some of them, by mask or index."""
        arrays = {k: v[chosen] for k, v in vars(self).items() if k != "cutout"}
        return PairMatches(cutout=self.cutout, **arrays)


class MatchedCutouts:
    """The matches of pairs, from the open files of features, matches and points."""

    def __init__(self, features: h5py.File, matches: h5py.File, points: h5py.File) -> None:
        self._features, self._matches, self._points = features, matches, points

    def has_features(self, name: str) -> bool:
        return name in self._features

    def has_points(self, cutout: str) -> bool:
        return cutout in self._points and cutout in self._features

    def between(self, query: str, cutout: str) -> PairMatches:
        """Matches of a pair whose cutout has points.

        Raises:
            StorageError: if the pair was not matched.
        """
        index0, index1 = features_h5.matches_of(self._matches, query, cutout).pairs.numpy().T
        (xy0, scales0), (xy1, scales1) = (self._keypoints(name) for name in (query, cutout))
        return PairMatches(
            cutout=cutout,
            xy0=xy0[index0],
            xy1=xy1[index1],
            scales0=scales0[index0],
            scales1=scales1[index1],
            xyz=self._points[cutout]["points"][()][index1],
        )

    def points_of(self, cutout: str) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 3"]]:
        """All keypoints of a cutout that has points, and the points; NaN where there is none."""
        return self._keypoints(cutout)[0], self._points[cutout]["points"][()].astype(float)

    def _keypoints(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        xy = features_h5.keypoints_of(self._features, name).astype(float)
        group = self._features[name]
        return xy, group["scales"][()] if "scales" in group else np.ones(len(xy))


@contextmanager
def open_matched(features: Path, matches: Path, points: Path) -> Iterator[MatchedCutouts]:
    """Open the three files of a run.

    Raises:
        StorageError: if one of them cannot be used.
    """
    with (
        features_h5.open_h5(features) as feature_file,
        features_h5.open_h5(matches) as match_file,
        features_h5.open_h5(points) as point_file,
    ):
        yield MatchedCutouts(feature_file, match_file, point_file)


def match_candidates(
    options: PoseOptions,
    matching: MatchingOptions,
    ranked: Ranked,
    features: Path,
    points: Path,
    output: Path,
) -> Ranked:
    """Match each query with its candidates into `output`; those that remain of the lists.

    With `enough_inliers`, queries that have so many at once keep only their first candidates.
    """
    if options.enough_inliers is None:
        match(matching, _pairs(ranked, points), features, output)
        return ranked
    first = {query: found[: options.num_first] for query, found in ranked.items()}
    match(matching, _pairs(first, points), features, output)
    more = {q: found for q, found in ranked.items() if len(found) > len(first[q])}
    with open_matched(features, output, points) as files:
        more = {
            q: all_of for q, all_of in more.items() if not _has_enough(options, files, q, first[q])
        }
    match(matching, _pairs(first | more, points), features, output)
    return first | more


def _has_enough(
    options: PoseOptions, files: MatchedCutouts, query: str, first: Sequence[Candidate]
) -> bool:
    """Has one of these candidates so many verified matches that it is the right one?"""
    usable = [c.cutout for c in first if files.has_features(query) and files.has_points(c.cutout)]
    return any(
        len(verified_matches(options, files, query, cutout)) >= options.enough_inliers
        for cutout in usable
    )


def _pairs(ranked: Ranked, points: Path) -> list[Pair]:
    """All queries with their candidates, but for those whose points are not known."""
    with features_h5.open_h5(points) as file:
        return [(q, c.cutout) for q, found in ranked.items() for c in found if c.cutout in file]


def verified_matches(
    options: PoseOptions, files: MatchedCutouts, query: str, cutout: str
) -> PairMatches:
    """The matches of a pair that lie on its homographies."""
    found = files.between(query, cutout)
    return found[verify(options.verification, found.xy0, found.xy1, found.scales0, found.scales1)]
