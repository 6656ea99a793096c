"""Aachen's task of Section 5.3: triangulate day images at their poses, localize the queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from d2_hloc.benchmarks.aachen.data import (
    AachenData,
    AachenFiles,
    by_query,
    query_first,
    read_aachen,
)
from d2_hloc.benchmarks.aachen.report import AachenEvaluation, aachen_report, feature_row
from d2_hloc.benchmarks.aachen.results import read_truth, with_fallback, write_submission
from d2_hloc.benchmarks.arguments import split_matcher
from d2_hloc.benchmarks.comparison import Benchmark
from d2_hloc.core import config
from d2_hloc.core.ranges import MANY, check_ranges
from d2_hloc.features.names import reach_of
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files.colmap import pycolmap, read_model
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.ray import Engine
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching import choose_pairs
from d2_hloc.matching.options import MatchingOptions, PairsOptions
from d2_hloc.matching.pairs import Pair
from d2_hloc.refinement.matches import FeaturedImages, QueryRefiner
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.reports.localization import localization_rows, print_queries, score_queries
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.sfm.database import verified_matches
from d2_hloc.sfm.localize import LocalizationRun, ModelSource
from d2_hloc.sfm.matched import InputImages, Matched, listed_poses, match_collection
from d2_hloc.sfm.options import LocalizationOptions, Reconstruct, ReconstructionOptions
from d2_hloc.sfm.pnp import (
    FeaturedModel,
    Localized,
    MatchedQueries,
    count_found,
    localize,
    write_localized,
)
from d2_hloc.sfm.pose_errors import Poses
from d2_hloc.sfm.prepared_database import keypoints_identity, prepare_database
from d2_hloc.sfm.triangulation import triangulate

GROUND_TRUTH = "ground_truth.txt"  # in the data set, where there is one
# COLMAP's registration wants 30 inliers; hloc tries groups of covisible images one by one.
METHODS = {
    "registration": LocalizationOptions(min_num_inliers=30),
    "pnp": LocalizationOptions(covisibility_clustering=True),
}


@dataclass(frozen=True, kw_only=True)
class Aachen:
    """Features to compare, and the options of all steps.

    The method 'registration' takes the matches that fit a two-view geometry, as COLMAP registers
    images; 'pnp' takes all of them, as hloc does. Without `localization` it has options of its own.
    Queries that the list of pairs does not name are matched with the `retrieved` nearest images.
    With `fallback`, queries that cannot be placed get the pose of the first image they are listed
    with.

    Attributes:
        features: features to compare, by name: d2net, sift, d2net+lightglue, ...
        files: where the parts of the data set are.
        extraction: features of the images.
        matching: how two images are matched.
        refinement: sub-pixel keypoints.
        reconstruction: from matches to the model of the day.
        method: registration: matches that fit a two-view geometry, as the paper; pnp: all
            matches, as hloc.
        localization: from matches to a pose; null is the method's own.
        retrieved: images that a query is matched with which the list of pairs does not
            name.
        fallback: give queries that cannot be placed the pose of the first image they are
            listed with.
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

    def __post_init__(self) -> None:
        check_ranges(self, retrieved=(1, MANY))


@dataclass(frozen=True, kw_only=True)
class AachenBenchmark(Benchmark[AachenEvaluation]):
    """Aachen's data, options, and the true poses of the queries where they are known."""

    conf: Aachen
    data: AachenData
    truth: Poses | None
    engine: Engine = None

    @property
    def shared_configuration(self) -> dict[str, Any]:
        """Folder and options."""
        return self._configuration(replace(self.conf, features=()))

    def _configuration(self, conf: Aachen) -> dict[str, Any]:
        return {"images": str(self.data.images.resolve()), **config.to_dict(conf)}

    def evaluate(self, feature: str, outputs: Outputs) -> AachenEvaluation:
        """Match the listed pairs, triangulate the day, and find the poses of the queries."""
        name, matching = split_matcher(feature, self.conf.matching)
        extraction = replace(self.conf.extraction, feature=name)
        conf = replace(self.conf, features=(feature,), extraction=extraction, matching=matching)
        submission = outputs.submission(feature)
        record = self.record_of(outputs, self._configuration(conf), [submission])
        run = localize_night(conf, self.data, record, self.engine)
        write_submission(submission, run.found)
        return AachenEvaluation(
            feature=feature,
            record=record,
            run=run,
            is_refined=conf.refinement.enabled,
            errors=score_queries(run, self.truth),
        )

    def counts(self, evaluation: AachenEvaluation) -> dict[str, Any]:
        """Queries, and the database images that are of no use."""
        return count_found(evaluation.run.found) | {"without_pose": self.data.without_pose}

    def scores(self, evaluation: AachenEvaluation) -> dict[str, Any]:
        """Recall by the thresholds of former years; score_queries() notes today's."""
        if evaluation.night is None:
            return {}
        return {"night_until_2020": {r.name: r.share for r in evaluation.night.recalls}}

    def print_tables(self, evaluations: Sequence[AachenEvaluation]) -> None:
        """Print the queries of one feature, or a line for each of several."""
        if len(evaluations) == 1:
            run, errors = evaluations[0].run, evaluations[0].errors
            print_table(localization_rows(run, errors))
            print_queries(run.found, errors)
        else:
            print_table([feature_row(e) for e in evaluations])

    def make_report(self, evaluations: Sequence[AachenEvaluation], outputs: Outputs) -> Report:
        """Make the page, published rows beside our own."""
        return aachen_report(evaluations)


def run_aachen(
    conf: Aachen,
    dataset: Path,
    output: Path,
    truth: Path | None = None,
    engine: Engine = None,
) -> None:
    """Find the queries' poses by one feature in `output`, or by several in folders below it.

    Ground truth is the data set's own where none is given.

    Raises:
        ShardDone: of a shard, when it is made.
        ValueError: in one sentence that names the file, whatever cannot be used.
    """
    data = read_aachen(conf.files, dataset)
    if truth is None and (dataset / GROUND_TRUTH).is_file():
        truth = dataset / GROUND_TRUTH
    known = read_truth(truth, data.queries) if truth else None
    benchmark = AachenBenchmark(conf=conf, data=data, truth=known, engine=engine)
    benchmark.run(conf.features, output)


def localize_night(
    conf: Aachen, data: AachenData, record: RunRecord, engine: Engine = None
) -> LocalizationRun:
    """Match, verify, triangulate the day images at their poses, and find the queries' poses."""
    matched = match_listed(conf, data, record, engine)
    database, sparse = prepare_database(matched).path, record.outputs.sparse
    reference = data.reference()
    model = matched.once(
        "triangulate",
        lambda: triangulate(conf.reconstruction, reference, database, data.images, sparse),
        lambda: read_model(sparse),
        listed_poses(reference),
        *keypoints_identity(matched, matched.keypoints),
    )
    with record.timed("localize"):
        found = pose_night_queries(conf, data, matched, model, database)
    return LocalizationRun(
        record=record,
        found=found,
        model=model,
        cameras={n: data.cameras[n] for n in data.queries},
        max_error=(conf.localization or METHODS[conf.method]).max_error,
        source=ModelSource(
            folder=record.outputs.folder, images=data.images, has_given_poses=True, model=sparse
        ),
        queries=data.images,
        features=matched.features,
        matches=replace(matched.matches, pairs=tuple(query_first(matched.pairs, matched.queries))),
    )


def match_listed(
    conf: Aachen, data: AachenData, record: RunRecord, engine: Engine = None
) -> Matched:
    """Match the listed pairs that are of use, and other queries with their nearest images."""
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
    return match_collection(step, inputs, record, choose, engine)


def pose_night_queries(
    conf: Aachen,
    data: AachenData,
    matched: Matched,
    model: pycolmap.Reconstruction,
    database: Path,
) -> list[Localized]:
    """Find the poses of the queries in the triangulated model."""
    refine, verified = None, None
    if conf.refinement.enabled:
        images = FeaturedImages(data.images, matched.features.path)
        reach = reach_of(conf.extraction.feature)
        refine = QueryRefiner(conf.refinement.reaching(reach), images, images)
    if conf.method == "registration":
        verified = verified_matches(
            database, matched.matches.path, lambda pair: not matched.queries.isdisjoint(pair)
        )
    queries = MatchedQueries(
        cameras={name: data.cameras[name] for name in data.queries},
        pairs=query_first(matched.pairs, matched.queries),
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
        found = with_fallback(found, by_query(matched.pairs, matched.queries), data.poses)
        write_localized(matched.outputs, found)
    return found
