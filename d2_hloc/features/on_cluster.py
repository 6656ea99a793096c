"""Extraction on many machines: in shards by whichever worker of a cluster is free, then merged.

What an interrupted run left in shards is gone on with, and the files equal those of one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

from d2_hloc.core.listing import ImageError, list_images
from d2_hloc.features.adapter import Extractor
from d2_hloc.features.extracted import Extracted
from d2_hloc.features.extraction import create_extractor, extract, printable
from d2_hloc.features.options import ExtractionOptions, FeatureOptions
from d2_hloc.files import features_h5
from d2_hloc.files.merging import merge
from d2_hloc.files.ray import Engine, run_in_shards
from d2_hloc.files.shards import Shard, shard_done, shard_path

IMAGES = 16  # of a shard


def extract_on(
    engine: Engine,
    options: ExtractionOptions,
    images: Path,
    output: Path,
    names: Sequence[str] | None = None,
    orientations: Mapping[str, int] | None = None,
) -> Extracted:
    """Extract as extract() does, on a cluster; for None in this process, and a shard of it here.

    Raises:
        ClusterError: as ray.run_shards().
        ShardDone: if a shard was made.
        ImageError, ConfigurationChanged, DiskFull: as extract().
    """
    if engine is None:
        return extract(options, images, output, names, orientations=orientations)
    names = list_images(images) if names is None else names
    done = features_h5.extracted_names(output, names) if output.exists() else []
    missing = len(set(names) - set(done))
    if isinstance(engine, Shard):
        if _are_tried(output, names):
            return Extracted.read(output, names)
        extract(options, images, output, names, engine, orientations=orientations)
        raise shard_done(output, engine)
    if not missing:
        return extract(options, images, output, names)
    work = partial(_extract, options, images, output, names, orientations)
    shards = run_in_shards(engine, work, output, missing, IMAGES, "image")
    found = (features_h5.extracted_names(shard_path(output, shard)) for shard in shards)
    if not done and not any(found):
        raise ImageError(f"{images}: none of the {len(names)} images can be used.")
    return Extracted.read(merge(output), names)


def _are_tried(output: Path, names: Sequence[str]) -> bool:
    """Tell whether all images are in the merged file, or noted in it as of no use."""
    if not output.exists():
        return False
    there = {*features_h5.extracted_names(output, names), *features_h5.read_failures(output)}
    return there >= {printable(name) for name in names} or there >= set(names)


def _extract(
    options: ExtractionOptions,
    images: Path,
    output: Path,
    names: Sequence[str],
    orientations: Mapping[str, int] | None,
    shard: Shard,
) -> None:
    extract(options, images, output, names, shard, _kept_extractor, orientations)


@lru_cache(maxsize=1)
def _kept_extractor(options: FeatureOptions) -> Extractor:
    """The extractor, which a worker makes once for all its shards."""
    return create_extractor(options)
