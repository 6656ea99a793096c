"""The Aachen task of Section 5.3: day images triangulated at their poses, queries placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from d2_hloc.benchmarks.aachen import data as aachen
from d2_hloc.benchmarks.aachen.data import AachenFiles
from d2_hloc.benchmarks.aachen.results import with_fallback, write_submission
from d2_hloc.core import config
from d2_hloc.features.extraction import ExtractionOptions
from d2_hloc.files.colmap import pycolmap, read_model
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching import choose_pairs
from d2_hloc.matching.choose_pairs import PairsOptions
from d2_hloc.matching.nearest import MatchingOptions
from d2_hloc.matching.pairs import Pair
from d2_hloc.refinement.matches import QueryRefiner
from d2_hloc.refinement.patches import RefinementOptions
from d2_hloc.sfm.database import verified_matches
from d2_hloc.sfm.localize import LocalizationRun, ModelSource
from d2_hloc.sfm.matched import InputImages, Matched, match_images
from d2_hloc.sfm.options import Reconstruct, ReconstructionOptions
from d2_hloc.sfm.pnp import (
    FeaturedModel,
    LocalizationOptions,
    Localized,
    MatchedQueries,
    count_found,
    localize,
    write_localized,
)
from d2_hloc.sfm.reconstruct import prepare_database
from d2_hloc.sfm.triangulation import triangulate

# COLMAP's registration wants 30 inliers; hloc tries groups of covisible images one by one.
METHODS = {
    "registration": LocalizationOptions(min_num_inliers=30),
    "pnp": LocalizationOptions(covisibility_clustering=True),
}


@dataclass(frozen=True, kw_only=True)
class Aachen:
    """Options. `method`: 'registration' takes the matches that fit a two-view geometry, as COLMAP
    registers images; 'pnp' takes all of them, as hloc does. `localization`: None is the method's.

    Queries that the list of pairs does not name are matched with the `retrieved` nearest images.
    `fallback`: queries that cannot be placed get the pose of the first image they are listed with.
    """

    features: tuple[str, ...] = ("d2net",)
    files: AachenFiles = field(default_factory=AachenFiles)
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    refinement: RefinementOptions = field(default_factory=lambda: RefinementOptions(enabled=True))
    reconstruction: ReconstructionOptions = field(default_factory=ReconstructionOptions)
    method: Literal["registration", "pnp"] = "registration"
    localization: LocalizationOptions | None = None
    retrieved: int = 20
    fallback: bool = False


def place(conf: Aachen, data: aachen.Aachen, output: Path) -> LocalizationRun:
    """Match the listed pairs, verify, triangulate the day, place the queries: OUT as ever.

    `conf` names one feature.
    """
    conf = replace(conf, extraction=replace(conf.extraction, feature=conf.features[0]))
    record = RunRecord(output, {"images": str(data.images.resolve()), **config.to_dict(conf)})
    matched = match_pairs(conf, data, record)
    database, sparse = prepare_database(matched).path, record.outputs.sparse
    model = matched.once(
        "triangulate",
        lambda: triangulate(conf.reconstruction, data.reference(), database, data.images, sparse),
        lambda: read_model(sparse),
    )
    with record.timed("localize"):
        found = place_queries(conf, data, matched, model, database)
    record.counts |= count_found(found) | {"without_pose": data.without_pose}
    record.write()
    write_submission(output, conf.features[0], found)
    return LocalizationRun(
        record=record,
        found=found,
        model=model,
        cameras={n: data.cameras[n] for n in data.queries},
        max_error=(conf.localization or METHODS[conf.method]).max_error,
        source=ModelSource(folder=output, images=data.images, has_given_poses=True),
        queries=data.images,
        features=matched.features,
        matches=matched.matches,
    )


def match_pairs(conf: Aachen, data: aachen.Aachen, record: RunRecord) -> Matched:
    """The listed pairs of images that are of use, and for other queries their nearest images."""
    unused, listed = set(data.without_pose), data.query_pairs()
    kept = [pair for pair in data.pairs if unused.isdisjoint(pair)]
    lost = [query for query, images in listed.items() if not images]

    def choose(options: PairsOptions, names: Sequence[str], features: Path) -> list[Pair]:
        images = [n for n in names if n in data.poses]
        queries = [n for n in lost if n in names]
        return kept + choose_pairs.of_queries(options, queries, features, images, features)

    retrieval = PairsOptions(method="retrieval" if lost else "exhaustive", count=conf.retrieved)
    step = Reconstruct(
        extraction=conf.extraction,
        pairs=retrieval,
        matching=conf.matching,
        refinement=conf.refinement,
        reconstruction=conf.reconstruction,
    )
    known, named = set(data.names), {name for pair in kept for name in pair}
    names = sorted((named & known) | set(data.queries))
    cameras = {name: data.cameras[name] for name in names}
    inputs = InputImages(
        folder=data.images,
        names=names,
        cameras=lambda present: {n: cameras[n] for n in present},
        queries=frozenset(data.queries),
    )
    return match_images(step, inputs, record, choose)


def place_queries(
    conf: Aachen,
    data: aachen.Aachen,
    matched: Matched,
    model: pycolmap.Reconstruction,
    database: Path,
) -> list[Localized]:
    """Poses of the queries in the triangulated model."""
    refine, verified = None, None
    if conf.refinement.enabled:
        resize_max = conf.extraction.resize_max
        refine = QueryRefiner(conf.refinement, data.images, data.images, resize_max)
    if conf.method == "registration":
        verified = verified_matches(
            database, matched.matches.path, lambda pair: not matched.queries.isdisjoint(pair)
        )
    queries = MatchedQueries(
        cameras={name: data.cameras[name] for name in data.queries},
        pairs=aachen.query_first(matched.pairs, matched.queries),
        features=matched.features.path,
        matches=matched.matches.path,
        verified=verified,
    )
    found = localize(
        conf.localization or METHODS[conf.method],
        FeaturedModel(reconstruction=model, features=matched.features.path),
        queries,
        matched.outputs,
        refine,
    )
    if conf.fallback:
        found = with_fallback(found, aachen.by_query(matched.pairs, matched.queries), data.poses)
        write_localized(matched.outputs, found)
    return found
