"""Matching on many machines: in shards by whichever worker is free, then merged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from d2_hloc.files import features_h5
from d2_hloc.files.merging import merge
from d2_hloc.files.ray import Engine, run_in_shards
from d2_hloc.files.shards import Shard, shard_done
from d2_hloc.matching.match_pairs import CACHE_BYTES, MatchedPairs, match
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.matching.pairs import Pair, unique

PAIRS = 500  # of a shard; half a block of order_for_reuse()


def match_on(
    engine: Engine,
    options: MatchingOptions,
    pairs: Sequence[Pair],
    features: Path,
    output: Path,
    features1: Path | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> MatchedPairs:
    """Match as match_pairs.match() does, on a cluster; for None in this process, or a shard here.

    Raises:
        ClusterError: as ray.run_shards().
        ShardDone: if a shard was made.
        StorageError, ConfigurationChanged, DiskFull: as match().
    """
    missing = 0 if engine is None else len(_missing(pairs, output))
    if isinstance(engine, Shard):
        if output.exists() and missing <= len(MatchedPairs.read(output, pairs).failures):
            return MatchedPairs.read(output, pairs)
        match(options, pairs, features, output, features1, cache_bytes, engine)
        raise shard_done(output, engine)
    if engine is None or not missing:
        return match(options, pairs, features, output, features1, cache_bytes)
    work = partial(_match, options, pairs, features, output, features1)
    run_in_shards(engine, work, output, missing, PAIRS, "pair")
    return MatchedPairs.read(merge(output), pairs)


def _missing(pairs: Sequence[Pair], output: Path) -> list[Pair]:
    listed = unique(pairs)
    if not output.exists():
        return listed
    with features_h5.open_h5(output) as file:
        return [pair for pair in listed if not features_h5.holds_pair(file, *pair)]


def _match(
    options: MatchingOptions,
    pairs: Sequence[Pair],
    features: Path,
    output: Path,
    features1: Path | None,
    shard: Shard,
) -> None:
    match(options, pairs, features, output, features1, shard=shard)
