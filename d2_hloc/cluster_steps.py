"""The steps on a cluster: in shards by whichever worker is free, then merged.

What an interrupted run left in shards is gone on with, and the files equal those of one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

from d2_hloc import storage
from d2_hloc.adapters import Extractor
from d2_hloc.adapters.options import FeatureOptions
from d2_hloc.cluster import Cluster, ClusterError, Work, run_shards
from d2_hloc.extraction import ExtractionOptions, create_extractor, extract
from d2_hloc.images import ImageError, list_images
from d2_hloc.matching import MatchingOptions
from d2_hloc.merging import merge
from d2_hloc.pair_matching import match
from d2_hloc.pairs import Pair, unique
from d2_hloc.shards import MOST, Shard, is_finished, shard_count, shard_path

IMAGES = 16  # of a shard
PAIRS = 500  # of a shard; half a block of order_for_reuse()


def extract_on(
    cluster: Cluster | None,
    options: ExtractionOptions,
    images: Path,
    output: Path,
    names: Sequence[str] | None = None,
) -> Path:
    """As extraction.extract(), on a cluster; for None in this process.

    Raises:
        ClusterError: as cluster.run_shards().
        ImageError, ConfigurationChanged, DiskFull: as extract().
    """
    if cluster is None:
        return extract(options, images, output, names)
    names = list_images(images) if names is None else names
    done = storage.image_names(output, names) if output.exists() else []
    missing = len(set(names) - set(done))
    if not missing:
        return extract(options, images, output, names)
    work = partial(_extract, options, images, output, names)
    shards = _run(cluster, work, output, missing, IMAGES, "image")
    found = (storage.image_names(shard_path(output, shard)) for shard in shards)
    if not done and not any(found):
        raise ImageError(f"{images}: none of the {len(names)} images can be used.")
    return merge(output)


def _extract(
    options: ExtractionOptions, images: Path, output: Path, names: Sequence[str], shard: Shard
) -> None:
    extract(options, images, output, names, shard, _kept_extractor)


@lru_cache(maxsize=1)
def _kept_extractor(options: FeatureOptions) -> Extractor:
    """A worker makes it once for all its shards."""
    return create_extractor(options)


def match_on(
    cluster: Cluster | None,
    options: MatchingOptions,
    pairs: Sequence[Pair],
    features: Path,
    output: Path,
    features1: Path | None = None,
) -> Path:
    """As pair_matching.match(), on a cluster; for None in this process.

    Raises:
        ClusterError: as cluster.run_shards().
        StorageError, ConfigurationChanged, DiskFull: as match().
    """
    missing = 0 if cluster is None else len(_missing(pairs, output))
    if cluster is None or not missing:
        return match(options, pairs, features, output, features1)
    work = partial(_match, options, pairs, features, output, features1)
    _run(cluster, work, output, missing, PAIRS, "pair")
    return merge(output)


def _missing(pairs: Sequence[Pair], output: Path) -> list[Pair]:
    listed = unique(pairs)
    if not output.exists():
        return listed
    with storage.open_h5(output) as file:
        return [pair for pair in listed if not storage.holds_pair(file, *pair)]


def _match(
    options: MatchingOptions,
    pairs: Sequence[Pair],
    features: Path,
    output: Path,
    features1: Path | None,
    shard: Shard,
) -> None:
    match(options, pairs, features, output, features1, shard=shard)


def _run(
    cluster: Cluster, work: Work, output: Path, items: int, a_shard: int, unit: str
) -> list[Shard]:
    """Make the shards of a file, as many as it was begun with."""
    count = shard_count(output) or min(-(-items // a_shard), MOST)
    sizes = {shard: len(shard.of(range(items))) for shard in Shard.all(count)}
    run_shards(cluster, work, sizes, f"{work.func.__name__.strip('_')} on the cluster", unit)
    unseen = [shard for shard in sizes if not is_finished(output, shard)]
    if unseen:
        raise ClusterError(
            f"{shard_path(output, unseen[0])}: was written, but not here; the nodes of a cluster "
            "must see the same files by the same paths."
        )
    return list(sizes)
