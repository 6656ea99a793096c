"""Pairs + features.h5 -> matches.h5 (a step)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from d2_hloc.core import config
from d2_hloc.core.cache import BoundedCache
from d2_hloc.core.devices import chosen_device, sent
from d2_hloc.core.structs import Features, Matches
from d2_hloc.core.threads import in_threads, one_thread_an_operation
from d2_hloc.features.extracted import upright_features
from d2_hloc.features.names import DETECTED
from d2_hloc.features.options import BUNDLED as PROJECTION
from d2_hloc.features.pyramids import PreparedPyramids, match_by_pyramid, prepare_by_pyramid
from d2_hloc.files import features_h5
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.files.provenance import file_sha256
from d2_hloc.files.shards import Shard, note_items, staged_shard
from d2_hloc.files.staged_h5 import Record, Staged
from d2_hloc.matching.features_of_pairs import FeaturesOfPairs
from d2_hloc.matching.grown import match_grown, placed_cache
from d2_hloc.matching.hierarchical import level_cache, match_hierarchical
from d2_hloc.matching.nearest import match_descriptors
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.matching.pairs import Pair, order_for_reuse, pair_text, unique
from d2_hloc.matching.prepared import PreparedDescriptors, prepare_descriptors
from d2_hloc.matching.published import PACKAGED, glue_digests

logger = logging.getLogger(__name__)

CACHE_BYTES = 3 << 29  # of descriptors held at once
OWN = DETECTED  # what our weights of 'lightglue' were learned from
OF_NEIGHBOURS = ("mutual", "ratio_threshold", "distance_threshold", "growing")  # options
OF_LIGHTGLUE = ("weights", "min_score", "min_support", "precision")
BLOCK = 32  # images; pairs are ordered so that blocks of them stay in the cache


@dataclass(frozen=True, kw_only=True)
class MatchedPairs:
    """Matches of pairs of images in a file of hloc's format.

    `pairs` are those that were matched, of the ones asked for. `failures` are the reasons why
    others were not, by pair.
    """

    path: Path
    pairs: tuple[Pair, ...]
    failures: Mapping[Pair, str]

    @classmethod
    def read(cls, path: Path, pairs: Sequence[Pair]) -> MatchedPairs:
        """Look up which of these pairs an existing file notes as failures; the others are matched.

        Raises:
            StorageError: if the file is missing or not HDF5.
        """
        noted = features_h5.read_failures(path)
        failures = {p: noted[pair_text(p)] for p in unique(pairs) if pair_text(p) in noted}
        matched = tuple(p for p in unique(pairs) if p not in failures)
        return cls(path=path, pairs=matched, failures=failures)

    @property
    def failures_by_text(self) -> dict[str, str]:
        """The failures as files record them."""
        return {pair_text(pair): reason for pair, reason in self.failures.items()}


def descriptor_cache(
    file: GuardedFile, capacity: int = CACHE_BYTES
) -> BoundedCache[str, PreparedPyramids]:
    """Descriptors (N, D) of a features file, read and prepared once while they are in use."""
    device = chosen_device()

    def prepare(part: Features) -> PreparedDescriptors:
        return prepare_descriptors(sent(part.descriptors, device))

    def read(name: str) -> PreparedPyramids:
        found = features_h5.features_of(file, name, needs_descriptors=True)
        return prepare_by_pyramid(found, prepare)

    return BoundedCache(read, capacity)


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """A way of matching: images of a features file, read and prepared once, then two of them.

    What is prepared has a length, the number of keypoints.
    """

    cache: Callable[[GuardedFile, int], BoundedCache[str, Any]]
    match: Callable[[Any, Any], Matches]


def by_pyramid(
    cache: Callable[[GuardedFile, int], BoundedCache[str, PreparedPyramids]],
    match: Callable[[Any, Any], Matches],
) -> Matcher:
    """The matcher of images whose features are matched within each pyramid."""
    return Matcher(cache=cache, match=lambda a, b: match_by_pyramid(match, a, b))


def create_matcher(options: MatchingOptions, feature: str = "d2net") -> Matcher:
    """The matcher that the options name, for a feature.

    Raises:
        WeightsError: if its weights cannot be used.
    """
    if options.matcher == "nearest":
        return by_pyramid(descriptor_cache, lambda a, b: match_descriptors(a, b, options))
    if options.matcher == "grown":
        return Matcher(cache=placed_cache, match=lambda a, b: match_grown(options, a, b))
    if options.matcher == "hierarchical":
        return Matcher(cache=level_cache, match=lambda a, b: match_hierarchical(options, a, b))
    return learned_matcher(options, feature)


def learned_matcher(options: MatchingOptions, feature: str) -> Matcher:
    """Our own LightGlue, or that of another feature. They import kornia, which takes seconds.

    Raises:
        WeightsError: if its weights cannot be used.
    """
    if feature in OWN:
        from d2_hloc.matching.grown_glue import GrownGlue

        own = GrownGlue(options)
        return by_pyramid(own.cache, own)
    from d2_hloc.matching.published import PublishedGlue

    glue = PublishedGlue(feature, options.min_score)

    def cache(file: GuardedFile, capacity: int) -> BoundedCache[str, Any]:
        def read(name: str) -> Any:
            found, size = upright_features(file, name)
            return glue.prepare(found.keypoints, found.descriptors, size)

        return BoundedCache(read, capacity)

    return Matcher(cache=cache, match=lambda a, b: glue(a, b).at_least(options.min_matches))


def match(
    options: MatchingOptions,
    pairs: Sequence[Pair],
    features: Path,
    output: Path,
    features1: Path | None = None,
    cache_bytes: int = CACHE_BYTES,
    shard: Shard | None = None,
) -> MatchedPairs:
    """Match pairs of images into `output`; pairs that are done, in either order, are left alone.

    The second image's features are read from `features1` where it is given. Pairs that name an
    image without features are reported at the end and noted in the file. Of each features file,
    descriptors of at most `cache_bytes` are held at once. A `shard` of the pairs that `output`
    lacks, neighbours in the order that reuses descriptors, goes into the shard's own file. Pairs
    whose features changed since are matched anew.

    Raises:
        StorageError: if features cannot be read, of any pair, or were compressed differently.
        ValueError: if descriptors' widths differ, or the matcher was not learned from them.
        WeightsError: if the matcher's weights cannot be used.
        ConfigurationChanged, DiskFull: as staged_h5.Staged.
        ValueError: as shards.staged_shard.
    """
    if features1 is not None:
        _check_projections(features, features1)
    feature = feature_of(features)
    if options.matcher == "lightglue":
        check_learned_from(features, feature)
    made_by = {
        "matching": configuration(options, feature),
        "features": features_h5.read_configuration(features),
        "features1": features_h5.read_configuration(features1) if features1 else None,
    }
    with (
        staged_shard(output, shard, made_by, "matches0") as staged,
        features_h5.open_h5(features) as file0,
        features_h5.open_h5(features1 or features) as file1,
    ):
        is_one_file = file0.filename == file1.filename
        listed = unique(pairs) if is_one_file else list(dict.fromkeys(pairs))
        if shard is not None:
            merged = [p for p in listed if _is_in(staged.merged, p, is_one_file)]
            FeaturesOfPairs.read(file0, file1, shard.of(merged)).refuse_stale(output)
            listed = _share(listed, merged, output, shard)
        failures = _without_features(listed, file0, file1)
        usable = [p for p in listed if p not in failures]
        made_from = FeaturesOfPairs.read(file0, file1, usable)
        made_from.drop_stale(staged)
        todo = [p for p in usable if not _is_in(staged.done, p, is_one_file)]
        todo = order_for_reuse(todo, BLOCK)
        staged.failures = {pair_text(pair): reason for pair, reason in failures.items()}
        matcher = create_matcher(options, feature)
        caches = [matcher.cache(f, cache_bytes) for f in (file0, file1)[: 2 if features1 else 1]]
        _match_all(matcher, todo, caches, made_from, staged)
        for key, reason in staged.failures.items():
            logger.warning("skipped %s: %s", key, reason)
        if failures and not usable and shard is None:
            raise _nothing_matched(features, failures)
    return MatchedPairs(path=staged.path, pairs=tuple(usable), failures=failures)


def _match_all(
    matcher: Matcher,
    todo: Sequence[Pair],
    caches: Sequence[BoundedCache[str, Any]],
    made_from: FeaturesOfPairs,
    staged: Staged,
) -> None:
    with closing(_records(matcher, todo, caches[0], caches[-1])) as records:
        progress = tqdm(todo, desc="match", unit="pair", disable=not todo)
        for pair, record in zip(progress, records, strict=True):
            key = features_h5.pair_key(*pair)
            staged.add(key, made_from.noted(key, record))


def _nothing_matched(features: Path, failures: Mapping[Pair, str]) -> features_h5.StorageError:
    first = next(iter(failures.values()))
    return features_h5.StorageError(
        f"{features}: none of the {len(failures)} pairs can be matched (the first: {first})."
    )


def configuration(options: MatchingOptions, feature: str = "d2net") -> dict[str, Any]:
    """Everything that matches depend on: the options that apply, and the weights' digest."""
    values = config.to_dict(options)
    if options.matcher == "nearest":  # as before there was another
        unused = ("matcher", "growing", *OF_LIGHTGLUE)
    elif options.matcher == "grown":
        unused = OF_LIGHTGLUE
    elif options.matcher == "hierarchical":
        unused = ("growing", *OF_LIGHTGLUE)
    elif feature in OWN:
        unused = OF_NEIGHBOURS
        from d2_hloc.matching.lightglue import locate

        values["weights_sha256"] = file_sha256(locate(options.weights))
    else:
        unused = (*OF_NEIGHBOURS, "weights", "min_support", "precision")
        values["weights_sha256"] = glue_digests(feature)
    return {key: value for key, value in values.items() if key not in unused}


def feature_of(features: Path) -> str:
    """The feature that a file holds; files of hloc do not say, and are taken for d2net's."""
    return (features_h5.read_configuration(features) or {}).get("feature", "d2net")


def check_learned_from(features: Path, feature: str) -> None:
    """Other features than the matcher was learned from may be of its width.

    Raises:
        ValueError: if the file says that they are others.
    """
    if feature not in (*OWN, *PACKAGED):
        raise ValueError(
            f"{features}: holds features of {feature}, and 'lightglue' matches those of "
            f"{', '.join((*OWN, *PACKAGED))}; match them by 'nearest'."
        )
    compressed = (features_h5.read_configuration(features) or {}).get("projection_sha256")
    if compressed not in (None, file_sha256(PROJECTION)) or (compressed and feature not in OWN):
        raise ValueError(
            f"{features}: was compressed by another projection than the one that 'lightglue' was "
            "learned with; match it by 'nearest', or compress the features anew."
        )


def _check_projections(features: Path, features1: Path) -> None:
    """Descriptors of two projections may be of one width, and yet their matches mean nothing."""
    found = [
        (features_h5.read_configuration(f) or {}).get("projection_sha256")
        for f in (features, features1)
    ]
    if found[0] != found[1]:
        raise features_h5.StorageError(
            f"{features1}: its descriptors are of another projection than those of {features}; "
            "compress both by the same one."
        )


def _records(
    matcher: Matcher,
    pairs: Sequence[Pair],
    cache0: BoundedCache[str, Any],
    cache1: BoundedCache[str, Any],
) -> Generator[Record]:
    """Match pairs, in order; a CPU's cores take one pair each, a GPU all of it."""

    def work(pair: Pair) -> Record:
        set0, set1 = cache0[pair[0]], cache1[pair[1]]
        return features_h5.matches_record(matcher.match(set0, set1), len(set0))

    with one_thread_an_operation() as count:
        workers = count if chosen_device().type == "cpu" else 1
        with closing(in_threads(work, pairs, workers)) as records:
            yield from records


def _share(
    listed: Sequence[Pair], merged: Sequence[Pair], whole: Path, shard: Shard
) -> Sequence[Pair]:
    """The pairs of a shard, of those that the merged file lacks."""
    there = set(merged)
    missing = [p for p in listed if p not in there]
    note_items(whole, missing)
    return shard.of(order_for_reuse(missing, BLOCK))


def _without_features(
    pairs: Sequence[Pair], file0: GuardedFile, file1: GuardedFile
) -> dict[Pair, str]:
    """Pairs that name an image without features, with that reason."""
    failures = {}
    for pair in pairs:
        missing = [n for n, f in zip(pair, (file0, file1), strict=True) if n not in f]
        if missing:
            failures[pair] = f"there are no features of {missing[0]}"
    return failures


def _is_in(keys: Set[str], pair: Pair, either_way: bool) -> bool:
    return features_h5.pair_key(*pair) in keys or (
        either_way and features_h5.pair_key(*reversed(pair)) in keys
    )
