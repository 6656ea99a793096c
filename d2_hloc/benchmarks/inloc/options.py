"""Options of InLoc's poses."""

from __future__ import annotations

from dataclasses import dataclass, field

from d2_hloc.benchmarks.inloc.spatial_verification import SpatialVerificationOptions
from d2_hloc.core.ranges import MANY, PIXELS, SEEDS, check_ranges
from d2_hloc.sfm.pnp import FEWEST


@dataclass(frozen=True, kw_only=True)
class PoseOptions:
    """Number of candidates, and the largest errors of inliers.

    Direct and Sparse PE take matches whose point is within `max_angle` degrees of its keypoint's
    ray, Pooled PE within `pooled_error` pixels of a query 4032 wide, and less in a smaller one.
    `num_candidates` are matched, and Sparse PE estimates poses by `num_poses` of them. A query with
    `enough_inliers` verified matches with one of its first `num_first` candidates is matched with
    no further ones. `refit_best`: where keypoints are refined, the best pose of Direct and Sparse
    PE is estimated again from all points of its cutout that the query shows.

    Attributes:
        num_candidates: cutouts that a query is matched with.
        num_poses: candidates, after spatial verification, that give a pose.
        max_angle: largest angle between an inlier's point and its keypoint's ray, degrees.
        pooled_error: largest error of Pooled PE, pixels of a query 4032 wide.
        min_num_inliers: a query with fewer has no pose.
        enough_inliers: verified matches with one of the first candidates that end the
            search; null is none.
        num_first: candidates that are looked at for enough_inliers.
        refit_best: estimate the best pose again from all points of its cutout, where keypoints
            are refined.
        random_seed: of the hypotheses that are drawn.
        verification: homographies that the matches have to agree on.
    """

    num_candidates: int = 100
    num_poses: int = 10
    max_angle: float = 1.0
    pooled_error: float = 48.0
    min_num_inliers: int = FEWEST
    enough_inliers: int | None = None
    num_first: int = 10
    refit_best: bool = True
    random_seed: int = 0
    verification: SpatialVerificationOptions = field(default_factory=SpatialVerificationOptions)

    def __post_init__(self) -> None:
        check_ranges(
            self,
            num_candidates=(1, MANY),
            num_poses=(1, MANY),
            max_angle=(1e-3, 90),
            pooled_error=PIXELS,
            min_num_inliers=(0, MANY),
            enough_inliers=(0, MANY),
            num_first=(0, MANY),
            random_seed=SEEDS,
        )
