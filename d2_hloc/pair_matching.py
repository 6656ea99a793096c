"""Pairs + features.h5 -> matches.h5 (a step)."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from pathlib import Path

import h5py
import torch
from torch import Tensor
from tqdm import tqdm

from d2_hloc import config, storage
from d2_hloc.bounded_cache import BoundedCache
from d2_hloc.matching import MatchingOptions, match_descriptors
from d2_hloc.pairs import Pair, order_for_reuse, unique
from d2_hloc.shards import Shard, staged_shard
from d2_hloc.staging import Staged

logger = logging.getLogger(__name__)

CACHE_BYTES = 2 << 30  # of descriptors held at once
BLOCK = 32  # images; pairs are ordered so that blocks of them stay in the cache


def descriptor_cache(file: h5py.File, capacity: int = CACHE_BYTES) -> BoundedCache[str, Tensor]:
    """Descriptors (N, D) float32 of a features file, read once while they are in use."""
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def read(name: str) -> Tensor:
        return storage.features_of(file, name).descriptors.float().to(device)

    return BoundedCache(read, capacity)


def match(
    options: MatchingOptions,
    pairs: Sequence[Pair],
    features: Path,
    output: Path,
    features1: Path | None = None,
    cache_bytes: int = CACHE_BYTES,
    shard: Shard | None = None,
) -> Path:
    """Match pairs of images into `output`; pairs that are done, in either order, are left alone.

    The second image's features are read from `features1` where it is given. Pairs that name an
    image without features are reported at the end and noted in the file (storage.failures). Of
    each features file, descriptors of at most `cache_bytes` are held at once. A `shard` of the
    pairs that `output` lacks, neighbours in the order that reuses descriptors, goes into the
    shard's own file.

    Raises:
        StorageError: if a features file cannot be read, or descriptors' widths differ.
        ConfigurationChanged, DiskFull: as staging.Staged.
        ValueError: as shards.staged_shard.
    """
    made_by = {
        "matching": config.to_dict(options),
        "features": storage.configuration(features),
        "features1": storage.configuration(features1) if features1 else None,
    }
    with (
        staged_shard(output, shard, made_by, "matches0") as staged,
        storage.open_h5(features) as file0,
        storage.open_h5(features1 or features) as file1,
    ):
        todo = _todo(pairs, staged, file0, file1, shard)
        caches = descriptor_cache(file0, cache_bytes), descriptor_cache(file1, cache_bytes)
        if features1 is None:
            caches = caches[0], caches[0]
        for name0, name1 in tqdm(todo, desc="match", unit="pair", disable=not todo):
            descriptors0 = caches[0][name0]
            matches = match_descriptors(descriptors0, caches[1][name1], options)
            record = storage.matches_record(matches, len(descriptors0))
            staged.add(storage.pair_key(name0, name1), record)
        for key, reason in staged.failures.items():
            logger.warning("skipped %s: %s", key, reason)
    return staged.path


def _todo(
    pairs: Sequence[Pair],
    staged: Staged,
    file0: h5py.File,
    file1: h5py.File,
    shard: Shard | None,
) -> list[Pair]:
    """Pairs still to match, those of the shard. Within one file a pair is the same both ways."""
    is_one_file = file0.filename == file1.filename
    listed = unique(pairs) if is_one_file else list(dict.fromkeys(pairs))
    if shard is not None:
        missing = [p for p in listed if not _is_in(staged.merged, p, is_one_file)]
        listed = shard.of(order_for_reuse(missing, BLOCK))
    todo = []
    for name0, name1 in listed:
        missing = [n for n, f in ((name0, file0), (name1, file1)) if n not in f]
        if missing:
            staged.failures[f"{name0} {name1}"] = f"there are no features of {missing[0]}"
        elif not _is_in(staged.done, (name0, name1), is_one_file):
            todo.append((name0, name1))
    return order_for_reuse(todo, BLOCK)


def _is_in(keys: Set[str], pair: Pair, either_way: bool) -> bool:
    return storage.pair_key(*pair) in keys or (
        either_way and storage.pair_key(*reversed(pair)) in keys
    )
