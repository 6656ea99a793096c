"""Scores of pairs of images whose true geometry is known, from features.h5 and matches.h5."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from d2_hloc.core.structs import Matches
from d2_hloc.features.extracted import Extracted
from d2_hloc.files import features_h5
from d2_hloc.files.checked_arrays import check_matches
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.files.provenance import digest, file_checksum
from d2_hloc.files.result_store import ResultStore
from d2_hloc.matching.match_pairs import MatchedPairs
from d2_hloc.matching.pairs import Pair
from d2_hloc.refinement.matches import PairRefiner
from d2_hloc.refinement.options import RefinementOptions, SpreadingOptions
from d2_hloc.refinement.pair_spreader import PairSpreader
from d2_hloc.refinement.shallow_maps import resize_max_of

# A pair has no third image to put a keypoint right: windows of 10 pixels find more of them.
PAIRWISE = RefinementOptions(enabled=True, coarse_window=5, ambiguity=0.02)

Size = tuple[int, int]  # w, h
Points = Float[np.ndarray, "_ 2"]  # pixels; (0, 0) is the centre of the first
# Moves the matched keypoints (K, 2) of a pair of images, given by name; there may be others after.
Refine = Callable[[Pair, Points, Points], tuple[Points, Points]]


def refinement_of_pairs(
    options: RefinementOptions, spreading: SpreadingOptions, images: Path, features: Extracted
) -> Refine | None:
    """Make the refinement of pairs' matches, with spreading where it is asked for; None: off."""
    if not options.enabled:
        return None
    resize_max = resize_max_of(features.path)
    refiner = PairRefiner(options, images, resize_max, features.orientations)
    return (
        PairSpreader(spreading, options, refiner, features.path) if spreading.enabled else refiner
    )


@runtime_checkable
class KnownPair(Protocol):
    """Two images, by name, whose true geometry is known."""

    @property
    def names(self) -> Pair: ...


@dataclass(frozen=True, kw_only=True)
class PairScore:
    """Number of matches of a pair; each benchmark adds its errors."""

    name0: str
    name1: str
    num_matches: int

    @property
    def names(self) -> Pair:
        return self.name0, self.name1


@dataclass(frozen=True, kw_only=True)
class MatchedPair:
    """Keypoints of two images, those of their matches in a row per match, and the sizes."""

    keypoints: tuple[Float[np.ndarray, "N0 2"], Float[np.ndarray, "N1 2"]]
    matched: tuple[Float[np.ndarray, "K 2"], Float[np.ndarray, "K 2"]]
    sizes: tuple[Size, Size]


K = TypeVar("K", bound=KnownPair)
S = TypeVar("S", bound=PairScore)


def score_pairs(
    pairs: Sequence[K],
    features: Path,
    matches: MatchedPairs,
    store: ResultStore[S],
    score: Callable[[K, MatchedPair], S],
    refine: Refine | None = None,
) -> list[S]:
    """Score the pairs that were matched, one at a time, and keep the scores in the store.

    Raises:
        StorageError: if a features or matches file cannot be used.
    """
    todo = {pair.names: pair for pair in pairs if pair.names not in matches.failures}
    with (
        features_h5.open_h5(features) as features_file,
        features_h5.open_h5(matches.path) as matches_file,
    ):

        def score_one(pair: K) -> S:
            return score(pair, read_pair(pair.names, features_file, matches_file, refine))

        return store.complete(todo, score_one, "score", "pair", digest_of=truth_of)


def truth_of(pair: KnownPair) -> str:
    """Digest of all that is known of a pair, which its score depends on."""
    values = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(pair).items()}
    return digest(values)[:16]


def pair_store(
    path: Path, configuration: Mapping[str, Any], kind: type[S], matches: Path
) -> ResultStore[S]:
    """Open a file of scores in the making; scores of other matches are made again.

    Raises:
        ConfigurationChanged: if it was made with another configuration.
        ValueError: if it is damaged.
    """
    made_from = file_checksum(matches)
    return ResultStore(path, configuration, kind, lambda score: score.names, "pairs", made_from)


def read_pair(
    names: Pair, features: GuardedFile, matches: GuardedFile, refine: Refine | None = None
) -> MatchedPair:
    """Read a pair of images; of its features, only the keypoints are read."""
    xy0, xy1 = (features_h5.keypoints_of(features, name).astype(np.float64) for name in names)
    size0, size1 = (features_h5.image_size_of(features, name) for name in names)
    found = features_h5.matches_of(matches, *names)
    where = f"{matches.filename}: {' '.join(names)}"
    check_matches(found.pairs.numpy(), len(xy0), len(xy1), where)
    matched = matched_keypoints(names, xy0, xy1, found, refine)
    return MatchedPair(keypoints=(xy0, xy1), matched=matched, sizes=(size0, size1))


def matched_keypoints(
    names: Pair, keypoints0: Points, keypoints1: Points, matches: Matches, refine: Refine | None
) -> tuple[Points, Points]:
    """Keypoints (K, 2) of both images, a row per match, moved by `refine` where it is given."""
    index = matches.pairs.numpy()
    xy0, xy1 = keypoints0[index[:, 0]], keypoints1[index[:, 1]]
    return (xy0, xy1) if refine is None else refine(names, xy0, xy1)
