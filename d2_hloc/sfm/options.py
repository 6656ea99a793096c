"""Options of reconstruction and of geometric verification."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from d2_hloc.files.colmap import pycolmap
from d2_hloc.matching.guided import GuidedOptions


@dataclass(frozen=True, kw_only=True)
class VerificationOptions:
    """Two-view geometry by robust estimation; distances in pixels of the original images.

    `estimator`: PoseLib's, or COLMAP's own, for which the last four do not count.
    `min_support`: hypotheses are drawn from the matches that their neighbours support by so much
    (consistency.local_consistency), before they are drawn from all; 0 is from all at once.
    `max_log_false_alarms`: a pair counts where fewer than ten to this power geometries as good are
    expected among random matches (significance.log_false_alarms).
    `guided`: a second look for matches along epipolar lines.
    """

    estimator: Literal["poselib", "colmap"] = "poselib"
    max_error: float = 4.0
    confidence: float = 0.999
    min_num_inliers: int = 15
    max_num_trials: int = 10_000
    min_support: float = 15.0
    max_log_false_alarms: float = -3.0
    guided: GuidedOptions = field(default_factory=GuidedOptions)


@dataclass(frozen=True, kw_only=True)
class ReconstructionOptions:
    """From verified matches to a model.

    COLMAP's mappers give the same model every time on one thread only. Up to `small_collection`
    images `num_threads` None is one, beyond that it is all there are.

    Mapping depends on the pair it starts from. While images are missing from the model of a small
    collection, it is tried again with another seed, `attempts` times at most; the best is kept.

    In the end observations beyond `outlier_factor` median errors leave the model; None leaves it as
    the mapper made it.
    """

    mapper: Literal["incremental", "global", "hierarchical"] = "incremental"
    camera_model: str = "SIMPLE_RADIAL"  # of cameras without known intrinsics
    verification: VerificationOptions = field(default_factory=VerificationOptions)
    min_num_matches: int = 15
    structure_less_registration_fallback: bool = True
    min_model_size: int = 3
    attempts: int = 3
    small_collection: int = 100
    outlier_factor: float | None = 5.0
    random_seed: int = 0
    num_threads: int | None = None

    def __post_init__(self) -> None:
        known = sorted(set(pycolmap.CameraModelId.__members__) - {"INVALID"})
        if self.camera_model not in known:
            raise ValueError(f"camera_model {self.camera_model!r} is not of {', '.join(known)}.")
        if self.outlier_factor is not None and not self.outlier_factor > 1:
            raise ValueError(f"outlier_factor must be above 1, not {self.outlier_factor}.")

    def for_images(self, count: int) -> ReconstructionOptions:
        """The threads and attempts for a collection of so many images."""
        is_small = count <= self.small_collection
        threads = self.num_threads or (1 if is_small else -1)
        return replace(self, num_threads=threads, attempts=self.attempts if is_small else 1)
