"""Section 5.2: a scene's images -> features -> matches -> model -> dense cloud."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from d2_hloc.benchmarks.sfm_benchmark.data import Scene
from d2_hloc.core import config
from d2_hloc.features.extraction import ExtractionOptions
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching.choose_pairs import PairsOptions
from d2_hloc.matching.nearest import MatchingOptions
from d2_hloc.mvs.reconstruct import DenseOptions, reconstruct_dense
from d2_hloc.network.weights.catalogue import BUNDLED
from d2_hloc.refinement.patches import RefinementOptions
from d2_hloc.sfm.cameras import known_or_guessed
from d2_hloc.sfm.mapping import map_images
from d2_hloc.sfm.matched import InputImages, Matched, match_images
from d2_hloc.sfm.options import Reconstruct, ReconstructionOptions
from d2_hloc.sfm.reconstruct import ModelRun, finish, prepare_database

SCORES = "dense.json"


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """The benchmark's rule of matching: the largest ratio, by feature; others have none."""

    sift: float | None = 0.8
    off_the_shelf: float | None = 0.9  # D2-Net
    trained: float | None = 0.95

    def of(self, options: ExtractionOptions) -> float | None:
        """The ratio for a feature, and for D2-Net for its weights."""
        if options.feature == "sift":
            return self.sift
        if options.feature not in ("d2net", "d2net-ms"):
            return None
        return self.off_the_shelf if options.d2net.weights in BUNDLED else self.trained


def benchmark_mapping() -> ReconstructionOptions:
    """COLMAP's mapper as the benchmark ran it, on whichever images it takes at first."""
    return ReconstructionOptions(
        structure_less_registration_fallback=False, outlier_factor=None, attempts=1
    )


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Options. Fewer than `min_matches` matches of a pair count as none.

    `reconstruction` is comparable with the published rows by default; models of refined keypoints
    are settled by the `refined_outlier_factor`. `dense`: None leaves the dense part out.
    """

    features: tuple[str, ...] = ("d2net",)
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    pairs: PairsOptions = field(default_factory=lambda: PairsOptions(max_exhaustive=2000))
    ratios: Ratios = field(default_factory=Ratios)
    min_matches: int = 15
    refinement: RefinementOptions = field(default_factory=RefinementOptions)
    reconstruction: ReconstructionOptions = field(default_factory=benchmark_mapping)
    refined_outlier_factor: float = 5.0
    dense: DenseOptions | None = field(default_factory=DenseOptions)

    def steps(self, feature: str) -> Reconstruct:
        """The options of one feature's steps."""
        extraction = replace(self.extraction, feature=feature)
        ratio = self.ratios.of(extraction)
        matching = MatchingOptions(ratio_threshold=ratio, min_matches=self.min_matches)
        return Reconstruct(
            extraction=extraction,
            pairs=self.pairs,
            matching=matching,
            refinement=self.refinement,
            reconstruction=self.mapping,
        )

    @property
    def mapping(self) -> ReconstructionOptions:
        """The mapper's options, for raw keypoints or refined ones."""
        if not self.refinement.enabled:
            return self.reconstruction
        return replace(self.reconstruction, outlier_factor=self.refined_outlier_factor)


def evaluate(conf: Benchmark, feature: str, scene: Scene, output: Path) -> ModelRun:
    """One feature on one scene: OUT as ever, with fused.ply and dense/ where that is asked for."""
    asked = replace(conf, features=(feature,))
    record = RunRecord(output, {"images": str(scene.images.resolve()), **config.to_dict(asked)})
    steps = conf.steps(feature)

    def cameras(names: Sequence[str]) -> dict[str, pycolmap.Camera]:
        model = conf.reconstruction.camera_model
        return known_or_guessed(scene.cameras, scene.images, names, model)

    inputs = InputImages(folder=scene.images, names=scene.names, cameras=cameras)
    matched = match_images(steps, inputs, record)
    database, sparse = prepare_database(matched), record.outputs.sparse
    found = finish(
        matched,
        database,
        "map",
        lambda: map_images(conf.mapping, database.path, scene.images, sparse),
    )
    if conf.dense is not None:
        reconstruct_depth(conf.dense, matched, found)
    return found


def reconstruct_depth(options: DenseOptions, matched: Matched, run: ModelRun) -> None:
    """Depth maps and the fused cloud of a model; its statistics into the record."""
    folder = run.output / "dense"

    def make() -> None:
        found = reconstruct_dense(options, run.output / "sparse", run.images, folder)
        cloud = run.output / "fused.ply"
        cloud.unlink(missing_ok=True)
        os.link(folder / "fused.ply", cloud)
        write_atomically(run.output / SCORES, json.dumps(asdict(found)).encode())

    def read() -> dict[str, float | None]:
        if not (run.output / "fused.ply").is_file():
            raise ValueError(f"{run.output / 'fused.ply'}: is not there")
        return json.loads((run.output / SCORES).read_text())

    run.record.scores["dense"] = matched.once("dense", make, read)
    run.record.write()
