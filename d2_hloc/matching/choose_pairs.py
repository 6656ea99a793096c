"""Choose the pairs of images to match: options and features -> a pair list (a step)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2_hloc.features import registry
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap
from d2_hloc.matching import pairs
from d2_hloc.matching.options import PairsOptions
from d2_hloc.matching.pairs import Pair

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Knowledge of images before they are matched: a model, or poses alone.

    `poses` are world to camera, by image name.
    """

    poses: Mapping[str, pycolmap.Rigid3d]
    model: pycolmap.Reconstruction | None = None


def check_pairing(options: PairsOptions, feature: str, num_images: int) -> None:
    """Tell, before an hour of extraction, whether these images can be paired at all.

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


def of_images(
    options: PairsOptions,
    names: Sequence[str],
    features: Path,
    reference: Reference | None = None,
) -> list[Pair]:
    """Pairs among images, or those of the list; `reference` is for the methods that ask it.

    Raises:
        ValueError: if the reference is missing, knows none of the images, or no two that see the
            same.
    """
    if options.file is not None:
        return pairs.read_pairs(options.file)
    if options.is_by_reference:
        if reference is None:
            raise ValueError(f"pairs by {options.method} need a reference.")
        return _by_reference(options, names, reference)
    if not options.is_retrieval(len(names), options.max_exhaustive):
        return pairs.exhaustive(names)
    pooled = features_h5.read_global_descriptors(features, names)
    return pairs.from_retrieval(names, pooled, options.count, search=options.search)


def _by_reference(options: PairsOptions, names: Sequence[str], reference: Reference) -> list[Pair]:
    known = {name: reference.poses[name] for name in names if name in reference.poses}
    if len(known) < len(names):
        logger.warning(
            "%d of %d images are paired with none: their poses are not known",
            len(names) - len(known),
            len(names),
        )
    if options.method == "poses":
        found = pairs.from_poses(known, options.count, options.max_angle)
    else:
        listed = pairs.from_covisibility(reference.model, options.count)
        found = [pair for pair in listed if known.keys() >= set(pair)]
    if not found:
        raise ValueError(
            f"no two of the {len(names)} images are a pair by {options.method}: {len(known)} of "
            "them are in the reference; choose another method of pairs."
        )
    return found


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
        options.search,
    )
