"""Which images are matched with which: options and features -> a pair list (a step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from d2_hloc.features import registry
from d2_hloc.files import features_h5
from d2_hloc.matching import pairs
from d2_hloc.matching.pairs import Pair


@dataclass(frozen=True, kw_only=True)
class PairsOptions:
    """Which images are matched. 'auto' is exhaustive up to `max_exhaustive` images, else retrieval.

    `count` is the number of retrieved images for each. A query's 'auto' is exhaustive up to that
    many images of the model: it has as many as an exhaustive search has for each image.
    """

    method: Literal["auto", "exhaustive", "retrieval"] = "auto"
    count: int = 20
    max_exhaustive: int = 200
    file: Path | None = None  # a pair list instead

    def __post_init__(self) -> None:
        for name in ("count", "max_exhaustive"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")

    def is_retrieval(self, num_images: int, largest: int) -> bool:
        """Are nearest images looked up, rather than all taken?"""
        if self.file is not None:
            return False
        return self.method == "retrieval" or (self.method == "auto" and num_images > largest)


def check(options: PairsOptions, feature: str, num_images: int) -> None:
    """Before an hour of extraction: can these images be paired at all?

    Raises:
        ValueError: for a pair list that cannot be read, or retrieval by features that pool none.
    """
    if options.file is not None:
        pairs.read_pairs(options.file)
    is_retrieval = options.is_retrieval(num_images, options.max_exhaustive)
    if is_retrieval and not registry.has_global_descriptor(feature):
        raise ValueError(
            f"{num_images} images are paired by retrieval, and {feature} has no global descriptors "
            "for it; ask for exhaustive pairs or give a file of pairs."
        )


def of_images(options: PairsOptions, names: Sequence[str], features: Path) -> list[Pair]:
    """Pairs among images, or those of the list."""
    if options.file is not None:
        return pairs.read_pairs(options.file)
    if not options.is_retrieval(len(names), options.max_exhaustive):
        return pairs.exhaustive(names)
    pooled = features_h5.read_global_descriptors(features, names)
    return pairs.from_retrieval(names, pooled, options.count)


def of_queries(
    options: PairsOptions,
    queries: Sequence[str],
    query_features: Path,
    names: Sequence[str],
    features: Path,
) -> list[Pair]:
    """Each query with images of a model."""
    if options.file is not None:
        return pairs.read_pairs(options.file)
    if not options.is_retrieval(len(names), options.count):
        return pairs.between(queries, names)
    return pairs.from_retrieval(
        names,
        features_h5.read_global_descriptors(features, names),
        options.count,
        queries,
        features_h5.read_global_descriptors(query_features, queries),
    )
