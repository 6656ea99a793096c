"""Models and dense clouds of photo collections, as in Section 5.2 of the D2-Net paper."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from d2_hloc.benchmarks.arguments import split_matcher
from d2_hloc.benchmarks.comparison import Benchmark
from d2_hloc.benchmarks.sfm_benchmark.data import (
    PhotoCollection,
    export_features,
    export_matches,
    read_photo_collection,
)
from d2_hloc.benchmarks.sfm_benchmark.report import (
    SfmEvaluation,
    model_row,
    published_model_rows,
    sfm_report,
)
from d2_hloc.benchmarks.tables import write_csv
from d2_hloc.core import config
from d2_hloc.core.ranges import MANY, RATIOS, check_ranges
from d2_hloc.core.text import read_json_file
from d2_hloc.features.names import DETECTED
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.ray import Engine
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching.options import MatchingOptions, PairsOptions
from d2_hloc.mvs.options import DenseOptions
from d2_hloc.mvs.reconstruct import reconstruct_dense
from d2_hloc.mvs.statistics import DenseStatistics
from d2_hloc.network.weights.catalogue import BUNDLED
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.reports.model import model_rows
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.sfm.cameras.sharing import known_or_guessed
from d2_hloc.sfm.matched import InputImages, match_collection
from d2_hloc.sfm.options import Reconstruct, ReconstructionOptions
from d2_hloc.sfm.prepared_database import prepare_database
from d2_hloc.sfm.reconstruct import ModelRun, map_matched


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Largest ratios of matching, by feature, as the benchmark has them; others have none.

    Attributes:
        sift: largest ratio of SIFT's distances; null is none.
        off_the_shelf: of D2-Net's with bundled weights; null is none.
        trained: of D2-Net's with others; null is none.
    """

    sift: float | None = 0.8
    off_the_shelf: float | None = 0.9  # D2-Net
    trained: float | None = 0.95

    def __post_init__(self) -> None:
        check_ranges(self, sift=RATIOS, off_the_shelf=RATIOS, trained=RATIOS)

    def of(self, options: ExtractionOptions) -> float | None:
        """Ratio for a feature, and for D2-Net for its weights."""
        if options.feature == "sift":
            return self.sift
        if options.feature not in DETECTED:
            return None
        return self.off_the_shelf if options.d2net.weights in BUNDLED else self.trained


def benchmark_mapping() -> ReconstructionOptions:
    """Options of COLMAP's mapper as the benchmark ran it, whichever images it takes at first."""
    return ReconstructionOptions(
        structure_less_registration_fallback=False,
        outlier_factor=None,
        attempts=1,
        min_pose_inliers=30,
        hold_distortion=False,
        focal_starts=(1.0,),
        initial_angle=16.0,
        triplet_error=None,
        second_look=False,
    )


@dataclass(frozen=True, kw_only=True)
class PhotoReconstruction:
    """Features to compare, and the options of all steps.

    Fewer than `min_matches` matches of a pair count as none. `reconstruction` is comparable with
    the published rows by default; models of refined keypoints have a second look, and
    leave out observations beyond the `refined_outlier_factor`. None for `dense` leaves the dense
    part out.

    Attributes:
        features: features to compare, by name: d2net-ms, sift, ...
        extraction: features of the images.
        pairs: which images are matched.
        ratios: largest ratios of matching, by feature.
        min_matches: a pair with fewer matches has none.
        refinement: sub-pixel keypoints.
        reconstruction: from matches to a model.
        refined_outlier_factor: observations beyond so many median errors leave a model of
            refined keypoints.
        dense: depth maps and clouds; null leaves them out.
    """

    features: tuple[str, ...] = ("d2net",)
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    pairs: PairsOptions = field(default_factory=lambda: PairsOptions(max_exhaustive=2000))
    ratios: Ratios = field(default_factory=Ratios)
    min_matches: int = 15
    refinement: RefinementOptions = field(default_factory=lambda: RefinementOptions(enabled=True))
    reconstruction: ReconstructionOptions = field(default_factory=benchmark_mapping)
    refined_outlier_factor: float = 5.0
    dense: DenseOptions | None = field(default_factory=DenseOptions)

    def __post_init__(self) -> None:
        check_ranges(self, min_matches=(0, MANY), refined_outlier_factor=(1 + 1e-6, 1e6))

    def steps(self, feature: str) -> Reconstruct:
        """Options of one feature's steps."""
        name, matching = split_matcher(feature, MatchingOptions())
        extraction = replace(self.extraction, feature=name)
        if matching.matcher == "nearest":
            matching = replace(matching, ratio_threshold=self.ratios.of(extraction))
        return Reconstruct(
            extraction=extraction,
            pairs=self.pairs,
            matching=replace(matching, min_matches=self.min_matches),
            refinement=self.refinement,
            reconstruction=self.mapping,
        )

    @property
    def mapping(self) -> ReconstructionOptions:
        """Options of the mapper, for raw keypoints or refined ones."""
        if not self.refinement.enabled:
            return self.reconstruction
        ours = ReconstructionOptions()
        return replace(
            self.reconstruction,
            outlier_factor=self.refined_outlier_factor,
            min_pose_inliers=ours.min_pose_inliers,
            hold_distortion=ours.hold_distortion,
            focal_starts=ours.focal_starts,
            initial_angle=ours.initial_angle,
            triplet_error=ours.triplet_error,
            second_look=ours.second_look,
        )


@dataclass(frozen=True, kw_only=True)
class SfmBenchmark(Benchmark[SfmEvaluation]):
    """A scene of the benchmark, and options; `export` writes the benchmark's own files too."""

    conf: PhotoReconstruction
    scene: PhotoCollection
    export: bool = False
    engine: Engine = None

    @property
    def shared_configuration(self) -> dict[str, Any]:
        """Folder and options."""
        return self._configuration(())

    def _configuration(self, features: tuple[str, ...]) -> dict[str, Any]:
        options = config.to_dict(replace(self.conf, features=features))
        return {"images": str(self.scene.images.resolve()), **options}

    def evaluate(self, feature: str, outputs: Outputs) -> SfmEvaluation:
        """Make the model of a scene, and its depth maps and cloud where that is asked for."""
        record = self.record_of(outputs, self._configuration((feature,)))
        run = reconstruct_scene(self.conf, feature, self.scene, record, self.engine)
        dense = None
        if self.conf.dense is not None:
            dense = reconstruct_depth(self.conf.dense, run)
        if self.export:
            matched = run.matched
            export_features(outputs.exported, matched.features.path, matched.features.names)
            export_matches(outputs.exported, matched.matches.path, matched.pairs)
        return SfmEvaluation(feature=feature, record=record, run=run, dense=dense)

    def counts(self, evaluation: SfmEvaluation) -> dict[str, Any]:
        """Nothing beside the counts that the steps note."""
        return {}

    def scores(self, evaluation: SfmEvaluation) -> dict[str, Any]:
        """Statistics of the dense cloud, beside those of the model that finish() notes."""
        return {} if evaluation.dense is None else {"dense": asdict(evaluation.dense)}

    def print_tables(self, evaluations: Sequence[SfmEvaluation]) -> None:
        """Print the numbers of one feature, or Table 1 of several."""
        if len(evaluations) == 1:
            print_table(model_rows(evaluations[0].run))
        else:
            print_table([model_row(e) for e in evaluations])

    def write_tables(self, evaluations: Sequence[SfmEvaluation], outputs: Outputs) -> None:
        """Write Table 1 of several features, with the paper's lines."""
        if len(evaluations) > 1:
            rows = [*map(model_row, evaluations), *published_model_rows(self.scene.name)]
            write_csv(outputs.reconstruction_table, rows)

    def make_report(self, evaluations: Sequence[SfmEvaluation], outputs: Outputs) -> Report:
        """Make the page."""
        return sfm_report(evaluations, self.scene.name)


def run_sfm_benchmark(
    conf: PhotoReconstruction,
    dataset: Path,
    output: Path,
    export: bool = False,
    engine: Engine = None,
) -> None:
    """Evaluate one feature in `output`, or several in folders below it, and compare them.

    Raises:
        ShardDone: of a shard, when it is made.
        ValueError: in one sentence that names the file, whatever cannot be used.
    """
    scene = read_photo_collection(dataset)
    benchmark = SfmBenchmark(conf=conf, scene=scene, export=export, engine=engine)
    benchmark.run(conf.features, output)


def reconstruct_scene(
    conf: PhotoReconstruction,
    feature: str,
    scene: PhotoCollection,
    record: RunRecord,
    engine: Engine = None,
) -> ModelRun:
    """Extract and match a scene's images, and map them."""

    def cameras(names: Sequence[str]) -> dict[str, pycolmap.Camera]:
        model = conf.reconstruction.camera_model
        return known_or_guessed(scene.cameras, scene.images, names, model)

    inputs = InputImages(folder=scene.images, names=scene.names, cameras=cameras)
    matched = match_collection(conf.steps(feature), inputs, record, engine=engine)
    return map_matched(matched, prepare_database(matched))


def reconstruct_depth(options: DenseOptions, run: ModelRun) -> DenseStatistics:
    """Make depth maps and the fused cloud of a model."""
    outputs = run.outputs
    dense = Outputs(outputs.dense)

    def make() -> None:
        found = reconstruct_dense(options, outputs.sparse, run.images, dense.folder)
        outputs.cloud.unlink(missing_ok=True)
        os.link(dense.cloud, outputs.cloud)
        write_atomically(outputs.dense_statistics, json.dumps(asdict(found)).encode())

    def read() -> DenseStatistics:
        if not outputs.cloud.is_file():
            raise ValueError(f"{outputs.cloud}: is not there")
        return config.from_dict(DenseStatistics, read_json_file(outputs.dense_statistics))

    return run.matched.once("dense", make, read)
