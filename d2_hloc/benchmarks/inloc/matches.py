"""Matches of queries with cutouts, and the cutouts' points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from d2_hloc.benchmarks.inloc.lift import LiftedPoints
from d2_hloc.benchmarks.inloc.lists import Candidate, Ranked
from d2_hloc.benchmarks.inloc.options import PoseOptions
from d2_hloc.benchmarks.inloc.spatial_verification import verify_spatially
from d2_hloc.features.extracted import Extracted
from d2_hloc.files import features_h5
from d2_hloc.files.checked_arrays import check_matches
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.files.ray import Engine
from d2_hloc.matching.match_pairs import MatchedPairs, match
from d2_hloc.matching.on_cluster import match_on
from d2_hloc.matching.options import MatchingOptions


@dataclass(frozen=True, kw_only=True)
class CutoutMatches:
    """Matches of a query with a cutout, pixels of the original images, and the cutout's points."""

    cutout: str
    xy0: Float[np.ndarray, "K 2"]  # in the query
    xy1: Float[np.ndarray, "K 2"]  # in the cutout
    scales0: Float[np.ndarray, " K"]
    scales1: Float[np.ndarray, " K"]
    xyz: Float[np.ndarray, "K 3"]  # metres, in the building's frame; NaN where there is no depth

    def __len__(self) -> int:
        return len(self.xy0)

    def __getitem__(self, chosen: np.ndarray) -> CutoutMatches:
        """Choose some of them, by mask or index."""
        arrays = {k: v[chosen] for k, v in vars(self).items() if k != "cutout"}
        return CutoutMatches(cutout=self.cutout, **arrays)


class MatchedCutouts:
    """Matches of pairs, from the open files of features, matches and points."""

    def __init__(self, features: GuardedFile, matches: GuardedFile, points: GuardedFile) -> None:
        self._features, self._matches, self._points = features, matches, points

    def has_features(self, name: str) -> bool:
        return name in self._features

    def has_points(self, cutout: str) -> bool:
        return cutout in self._points and cutout in self._features

    def between(self, query: str, cutout: str) -> CutoutMatches:
        """Read the matches of a pair whose cutout has points.

        Raises:
            StorageError: if the pair was not matched.
        """
        pairs = features_h5.matches_of(self._matches, query, cutout).pairs.numpy()
        (xy0, scales0), (xy1, scales1) = (self._keypoints(name) for name in (query, cutout))
        where = f"{self._matches.filename}: {query} {cutout}"
        check_matches(pairs, len(xy0), len(xy1), where)
        index0, index1 = pairs.T
        return CutoutMatches(
            cutout=cutout,
            xy0=xy0[index0],
            xy1=xy1[index1],
            scales0=scales0[index0],
            scales1=scales1[index1],
            xyz=self._points[cutout]["points"][()][index1],
        )

    def points_of(self, cutout: str) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 3"]]:
        """Read all keypoints of a cutout, and their points; NaN where there is none."""
        return self._keypoints(cutout)[0], self._points[cutout]["points"][()].astype(float)

    def _keypoints(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        xy = features_h5.keypoints_of(self._features, name).astype(float)
        group = self._features[name]
        return xy, group["scales"][()] if "scales" in group else np.ones(len(xy))


@dataclass(frozen=True, kw_only=True)
class QueryFiles:
    """Features of queries and cutouts, the cutouts' points, and the matches between the two."""

    features: Extracted
    points: LiftedPoints
    matches: MatchedPairs

    @property
    def failures(self) -> dict[str, str]:
        """Reasons why images, points and pairs are left out, by name."""
        return {**self.features.failures, **self.points.failures, **self.matches.failures_by_text}

    @contextmanager
    def open(self) -> Iterator[MatchedCutouts]:
        """Open the three files.

        Raises:
            StorageError: if one of them cannot be used.
        """
        with (
            features_h5.open_h5(self.features.path) as features,
            features_h5.open_h5(self.matches.path) as matches,
            features_h5.open_h5(self.points.path) as points,
        ):
            yield MatchedCutouts(features, matches, points)


def match_all(
    matching: MatchingOptions, ranked: Ranked, features: Path, output: Path, engine: Engine
) -> None:
    """Match each query with all its candidates on other machines, those without points too.

    Raises:
        ShardDone: of a shard, when it is made.
    """
    pairs = [(q, c.cutout) for q, found in ranked.items() for c in found]
    match_on(engine, matching, pairs, features, output)


def match_candidates(
    options: PoseOptions,
    matching: MatchingOptions,
    ranked: Ranked,
    features: Extracted,
    points: LiftedPoints,
    output: Path,
) -> tuple[Ranked, QueryFiles]:
    """Match each query with its candidates into `output`.

    With `enough_inliers`, queries that have so many at once keep only their first candidates.

    Returns:
        The candidates that remain of each query, and the files of all that is known of them.
    """

    def matched(some: Ranked) -> QueryFiles:
        pairs = [(q, c.cutout) for q, found in some.items() for c in found]
        pairs = [pair for pair in pairs if pair[1] in points.cutouts]
        matches = match(matching, pairs, features.path, output)
        return QueryFiles(features=features, points=points, matches=matches)

    if options.enough_inliers is None:
        return ranked, matched(ranked)
    first = {query: found[: options.num_first] for query, found in ranked.items()}
    more = {q: found for q, found in ranked.items() if len(found) > len(first[q])}
    with matched(first).open() as files:
        more = {q: f for q, f in more.items() if not _has_enough(options, files, q, first[q])}
    return first | more, matched(first | more)


def _has_enough(
    options: PoseOptions, files: MatchedCutouts, query: str, first: Sequence[Candidate]
) -> bool:
    """Tell whether one of these candidates has enough verified matches to be the right one."""
    enough = options.enough_inliers or 0
    usable = [c.cutout for c in first if files.has_features(query) and files.has_points(c.cutout)]
    return any(
        len(verified_spatially(options, files, query, cutout)) >= enough for cutout in usable
    )


def verified_spatially(
    options: PoseOptions, files: MatchedCutouts, query: str, cutout: str
) -> CutoutMatches:
    """Read the matches of a pair and keep those that lie on its homographies."""
    found = files.between(query, cutout)
    places, scales = (found.xy0, found.xy1), (found.scales0, found.scales1)
    return found[verify_spatially(options.verification, *places, *scales)]
