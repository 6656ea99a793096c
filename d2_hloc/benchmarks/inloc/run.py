"""InLoc's options, and the steps of a run: images, features, points, matches, poses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2_hloc.benchmarks.arguments import split_matcher
from d2_hloc.benchmarks.comparison import Benchmark
from d2_hloc.benchmarks.inloc.cameras import CameraOptions, query_cameras
from d2_hloc.benchmarks.inloc.data import InLocData, read_inloc
from d2_hloc.benchmarks.inloc.dense_verification import METHODS, DenseVerifier, find_poses
from d2_hloc.benchmarks.inloc.lift import lift
from d2_hloc.benchmarks.inloc.matches import match_all, match_candidates
from d2_hloc.benchmarks.inloc.options import PoseOptions
from d2_hloc.benchmarks.inloc.poses import Setting
from d2_hloc.benchmarks.inloc.rendering import CloudCache, DensePVOptions
from d2_hloc.benchmarks.inloc.report import (
    InLocEvaluation,
    inloc_report,
    method_rows,
    write_method_files,
)
from d2_hloc.benchmarks.inloc.retrieval import extract_candidates, write_candidates
from d2_hloc.benchmarks.inloc.scans import MapCache
from d2_hloc.benchmarks.inloc.scores import (
    MethodResult,
    errors_of,
    megabytes_an_image,
    method_scores,
)
from d2_hloc.core import config
from d2_hloc.core.ranges import THREADS, check_ranges
from d2_hloc.features.names import DENSE, reach_of
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.ray import Engine
from d2_hloc.files.run_record import RunRecord
from d2_hloc.files.shards import end_of_shards
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.refinement.matches import PairRefiner
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.sfm.pose_errors import Poses
from d2_hloc.sfm.poses_file import read_poses


@dataclass(frozen=True, kw_only=True)
class InLoc:
    """Features and methods to compare, and the options of all steps.

    Attributes:
        features: features to compare, by name: d2net-ms, sift, ...
        methods: direct, sparse, sparse+pv or pooled; several in one table.
        workers: threads; another number finds the same.
        retrieval: hloc's pairs, or InLoc's ImgList or scores; null is by the features' own
            descriptors.
        extraction: features of the images.
        matching: how two images are matched.
        refinement: sub-pixel keypoints of the queries.
        cameras: focal lengths of the queries.
        poses: candidates of each query, and the largest errors of inliers.
        dense: Dense PV: renderings from the poses found.
    """

    features: tuple[str, ...] = ("d2net-ms",)
    methods: tuple[str, ...] = ("sparse",)
    workers: int = 1  # threads
    retrieval: Path | None = None  # hloc's pairs, ImgList or scores; None: see extract_candidates
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    refinement: RefinementOptions = field(default_factory=lambda: RefinementOptions(enabled=True))
    cameras: CameraOptions = field(default_factory=CameraOptions)
    poses: PoseOptions = field(default_factory=PoseOptions)
    dense: DensePVOptions = field(default_factory=DensePVOptions)

    def __post_init__(self) -> None:
        if unknown := set(self.methods) - set(METHODS):
            raise ValueError(f"there is no method {unknown}; known are {', '.join(METHODS)}.")
        sparse = [feature for feature in self.features if feature not in DENSE]
        if sparse and any(method.startswith("dense") for method in self.methods):
            raise ValueError(
                f"method 'dense' takes features of all cells, {' or '.join(DENSE)}, and "
                f"{', '.join(sparse)} is of keypoints: give it method 'sparse'."
            )
        check_ranges(self, workers=THREADS)


@dataclass(frozen=True, kw_only=True)
class InLocBenchmark(Benchmark[InLocEvaluation]):
    """InLoc's data, options, and the true poses of the queries where they are known."""

    conf: InLoc
    data: InLocData
    truth: Poses | None
    engine: Engine = None

    @property
    def shared_configuration(self) -> dict[str, Any]:
        """Folder and options; methods may join later as features may, and threads do not count."""
        shared = replace(self.conf, features=(), methods=(), workers=1)
        return {"dataset": str(self.data.folder.resolve()), **config.to_dict(shared)}

    def evaluate(self, feature: str, outputs: Outputs) -> InLocEvaluation:
        """Extract, look up points, match, and find poses by each method."""
        conf = self.conf
        name, matching = split_matcher(feature, conf.matching)
        options = replace(conf.extraction, feature=name)
        rules = {"extraction": config.to_dict(options), "matching": config.to_dict(matching)}
        asked = {**self.shared_configuration, **rules}
        record = self.record_of(outputs, asked)
        setting, maps = self._setting(options, matching, record)
        verifier = DenseVerifier(
            options=conf.dense,
            data=self.data,
            cameras=setting.cameras,
            clouds=CloudCache(self.data, conf.dense, maps),
        )
        results = []
        for method in conf.methods:
            with record.timed(method):
                found = find_poses(method, setting, verifier, outputs)
            matching = record.timings.get("match", 0.0) / max(1, len(found))
            result = MethodResult(
                method=method,
                feature=feature,
                refined=setting.refine is not None,
                found=found,
                errors=errors_of(found, self.truth),
                megabytes=megabytes_an_image(setting.files.features.path),
                seconds=matching + float(np.mean([query.seconds for query in found])),
            )
            results.append(result)
        evaluation = InLocEvaluation(
            feature=feature,
            record=record,
            data=self.data,
            setting=setting,
            verifier=verifier,
            results=results,
        )
        write_method_files(evaluation)
        return evaluation

    def _setting(
        self, options: ExtractionOptions, matching: MatchingOptions, record: RunRecord
    ) -> tuple[Setting, MapCache]:
        """Make all that the methods share, and the cache of maps that they may go on with."""
        conf, data, outputs, maps = self.conf, self.data, record.outputs, MapCache()
        count = conf.poses.num_candidates
        with record.timed("extract"):
            given = options, conf.retrieval, count, data, outputs
            features, ranked = extract_candidates(*given, self.engine)
        write_candidates(ranked, outputs.pairs)
        sizes = {query: features.sizes[query] for query in data.queries if query in features.sizes}
        cameras = query_cameras(conf.cameras, data.folder, sizes)
        if self.engine is not None:
            with record.timed("match"):
                match_all(matching, ranked, features.path, outputs.matches, self.engine)
            end_of_shards(self.engine, outputs.folder)
        with record.timed("points"):
            points = lift(data.folder, ranked, features, outputs.points, maps, conf.workers)
        with record.timed("match"):
            ranked, files = match_candidates(
                conf.poses, matching, ranked, features, points, outputs.matches
            )
        refine = None
        if conf.refinement.enabled:
            refine = PairRefiner(
                conf.refinement.reaching(reach_of(options.feature)),
                data.folder,
                options.resize_max,
                features.orientations,
            )
        setting = Setting(
            options=conf.poses,
            cameras=cameras,
            ranked=ranked,
            files=files,
            refine=refine,
            workers=conf.workers,
        )
        return setting, maps

    def counts(self, evaluation: InLocEvaluation) -> dict[str, Any]:
        """Queries, cutouts, and what was skipped."""
        ranked = evaluation.setting.ranked
        return {
            "queries": len(ranked),
            "cutouts": len({c.cutout for found in ranked.values() for c in found}),
            "skipped": evaluation.skipped,
        }

    def scores(self, evaluation: InLocEvaluation) -> dict[str, Mapping[str, Any]]:
        """Scores of each method."""
        return {result.method: method_scores(result.row) for result in evaluation.results}

    def print_tables(self, evaluations: Sequence[InLocEvaluation]) -> None:
        """Print a line for each feature and method."""
        print_table(method_rows(evaluations))

    def make_report(self, evaluations: Sequence[InLocEvaluation], outputs: Outputs) -> Report:
        """Make the page, published rows beside our own."""
        return inloc_report(evaluations)


def run_inloc(
    conf: InLoc,
    dataset: Path,
    output: Path,
    truth: Path | None = None,
    engine: Engine = None,
) -> None:
    """Find the queries' poses by one feature in `output`, or by several in folders below it.

    Raises:
        ShardDone: of a shard, when it is made.
        ValueError: in one sentence that names the file, whatever cannot be used.
    """
    data = read_inloc(dataset)
    known = read_poses(truth) if truth else None
    benchmark = InLocBenchmark(conf=conf, data=data, truth=known, engine=engine)
    benchmark.run(conf.features, output)
