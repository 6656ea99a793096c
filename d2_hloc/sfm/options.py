"""Options of reconstruction and of geometric verification."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.ranges import MANY, PIXELS, SEEDS, THREADS, check_ranges
from d2_hloc.features.names import reach_of
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.matching.options import GuidedOptions, MatchingOptions, PairsOptions
from d2_hloc.refinement.options import RefinementOptions, SpreadingOptions
from d2_hloc.sfm.cameras.options import MODEL, CameraSharing

# The rule that each feature's authors match with when there is a model to build; of the others,
# the mutual nearest neighbours are taken.
NEAREST = {
    "d2net": MatchingOptions(ratio_threshold=0.95),
    "d2net-ms": MatchingOptions(ratio_threshold=0.95),
    "d2net-fine": MatchingOptions(ratio_threshold=0.95),
    "d2net-dense": MatchingOptions(),
    "densesfm": MatchingOptions(),
    "sift": MatchingOptions(ratio_threshold=0.8),
}
OF_CELLS = {  # whose plain neighbours find too little, or take too long
    "d2net-dense": MatchingOptions(matcher="grown"),
    "densesfm": MatchingOptions(matcher="hierarchical"),
}
OF_MANY = {"d2net-fine": MatchingOptions(matcher="lightglue")}  # that few neighbours are right of
MATCHING = NEAREST | OF_CELLS | OF_MANY  # what was measured best
COLMAPS_ERROR = 2.0  # times the error after refinement, where COLMAP verifies
MOVED = 30  # inliers, of thousands of moved keypoints: chance has more of these than of few


def matching_rule_of(feature: str, asked: MatchingOptions | None) -> MatchingOptions:
    """The rule to match by: the one that was asked for, or else the feature's own."""
    return asked or MATCHING.get(feature, MatchingOptions())


def matching_of(feature: str, asked: MatchingOptions) -> MatchingOptions:
    """The rule that was asked for; in place of neighbours, cells have their own matcher."""
    if asked.matcher == "nearest" and feature in OF_CELLS:
        return replace(asked, matcher=OF_CELLS[feature].matcher)
    return asked


@dataclass(frozen=True, kw_only=True)
class VerificationOptions:
    """Two-view geometry by robust estimation; distances in pixels of the original images.

    `estimator`: PoseLib's, or COLMAP's own, for which the last five do not count. `auto` is PoseLib
    for pairs whose focal lengths are both known, and COLMAP where one is a guess: mapping from
    guesses registers more images from its geometries (docs/geometry.md).
    `min_support`: hypotheses are drawn from the matches that their neighbours support by so much
    (consistency.local_consistency), before they are drawn from all; 0 is from all at once.
    `max_log_false_alarms`: a pair counts where fewer than ten to this power geometries as good are
    expected among random matches (significance.log_false_alarms).
    `guided`: a second look for matches along epipolar lines.
    `refined_max_error`: the error after refinement, in pixels of the images that features were
    extracted from.

    Attributes:
        estimator: PoseLib's, COLMAP's, or by whether the focal lengths are known.
        max_error: largest distance of an inlier to its epipolar line, pixels of the original image.
        confidence: probability that the best hypothesis was drawn.
        min_num_inliers: a pair with fewer counts for nothing.
        max_num_trials: most hypotheses of a pair.
        min_support: support by neighbours of matches that hypotheses are drawn from first; 0 is
            all.
        max_log_false_alarms: log10 of the largest number of geometries as good by chance.
        guided: a second look for matches along epipolar lines.
        refined_max_error: error after refinement, pixels of the images that features were found in.
    """

    estimator: Literal["auto", "poselib", "colmap"] = "auto"
    max_error: float = 4.0
    confidence: float = 0.999
    min_num_inliers: int = 15
    max_num_trials: int = 10_000
    min_support: float = 15.0
    max_log_false_alarms: float = -3.0
    guided: GuidedOptions = field(default_factory=GuidedOptions)
    refined_max_error: float = 1.0

    def for_moved(self, noise: float) -> VerificationOptions:
        """The same for COLMAP's estimator and thousands of keypoints that were all moved.

        `noise`: pixels of the images in one of those that features were extracted from.
        """
        error = min(self.max_error, COLMAPS_ERROR * self.refined_max_error * noise)
        return replace(self, max_error=error, min_num_inliers=max(self.min_num_inliers, MOVED))

    def __post_init__(self) -> None:
        check_ranges(
            self,
            max_error=PIXELS,
            confidence=(0, 1 - 1e-9),
            min_num_inliers=(0, MANY),
            max_num_trials=(1, MANY),
            min_support=(0, MANY),
            max_log_false_alarms=(-1e6, 1e6),
            refined_max_error=PIXELS,
        )


@dataclass(frozen=True, kw_only=True)
class ReconstructionOptions:
    """Options of mapping: from verified matches to a model.

    COLMAP's mappers give the same model every time on one thread only. Up to `small_collection`
    images `num_threads` None is one, beyond that it is all there are.

    Mapping depends on the pair it starts from. While images are missing from the model of a small
    collection, it is tried again with another seed, `attempts` times at most; the best is kept.
    `min_pose_inliers` place an image. At all attempts but the last, or the only one,
    `hold_distortion` leaves distortions as they were guessed until all images are placed: early on
    they make up for wrong focal lengths.

    `second_look`: where keypoints are refined and focal lengths were guessed, the model of a small
    collection leads to more matches (second_look.matches_by_model), whose keypoints are refined,
    and by which it is readjusted. Then images that the mapper left out are offered to it.

    `focal_starts`: where focal lengths were guessed, a small collection is mapped from these
    multiples of the guesses, one after the other, while images are missing from the model; and from
    two images whose rays meet at `initial_angle`. COLMAP asks for 16 degrees, which among
    photographs of one side of a building those have that match worst.

    In the end observations beyond `outlier_factor` median errors leave the model; None leaves it as
    the mapper made it.

    Attributes:
        mapper: COLMAP's way from verified matches to a model.
        camera_model: COLMAP's model of cameras without known intrinsics.
        verification: two-view geometry of pairs.
        min_num_matches: a pair with fewer matches is left out of mapping.
        structure_less_registration_fallback: place images without common points by their matches.
        min_model_size: images of the smallest model that is kept; of two images, two.
        attempts: most trials of a small collection, each with another seed, while images are
            missing.
        min_pose_inliers: fewest inliers that place an image.
        hold_distortion: leave distortions as guessed until all images are placed, in all attempts
            but the last.
        focal_starts: multiples of guessed focal lengths to map from, while images are missing.
        initial_angle: least angle between rays of the two images that mapping starts from, where
            focal lengths were guessed; degrees.
        triplet_error: a pair leaves whose relative rotation every triplet of images contradicts by
            more, degrees; null keeps all.
        second_look: where focal lengths were guessed, look for more matches where the model leads.
        small_collection: most images of a small collection, which is mapped on one thread.
        outlier_factor: median errors beyond which observations leave the model; null keeps all.
        by_uncertainty: weight refined keypoints by how certain their places are in the last
            adjustment, where all cameras are known.
        random_seed: of the first attempt.
        num_threads: of mapping; null is one for a small collection, else all there are; -1 is all.
    """

    mapper: Literal["incremental", "global", "hierarchical"] = "incremental"
    camera_model: str = MODEL  # of cameras without known intrinsics
    verification: VerificationOptions = field(default_factory=VerificationOptions)
    min_num_matches: int = 15
    structure_less_registration_fallback: bool = True
    min_model_size: int = 3
    attempts: int = 3
    small_collection: int = 100
    min_pose_inliers: int = 15
    hold_distortion: bool = True
    focal_starts: tuple[float, ...] = (1.0, 0.6, 1.4)
    initial_angle: float = 8.0
    triplet_error: float | None = 45.0
    second_look: bool = True
    outlier_factor: float | None = 5.0
    by_uncertainty: bool = True
    random_seed: int = 0
    num_threads: int | None = None

    def __post_init__(self) -> None:
        check_ranges(
            self,
            min_num_matches=(0, MANY),
            min_model_size=(0, MANY),
            attempts=(1, 1000),
            min_pose_inliers=(0, MANY),
            small_collection=(0, MANY),
            outlier_factor=(1 + 1e-6, 1e6),
            focal_starts=(0.05, 20),
            initial_angle=(0, 90),
            triplet_error=(0, 180),
            random_seed=SEEDS,
            num_threads=(-1, THREADS[1]),
        )

    def for_images(self, count: int) -> ReconstructionOptions:
        """The same for so many images: threads, attempts, starts and the smallest model."""
        is_small = count <= self.small_collection
        return replace(
            self,
            num_threads=self.num_threads or (1 if is_small else -1),
            attempts=self.attempts if is_small else 1,
            min_model_size=min(self.min_model_size, max(2, count)),
            focal_starts=self.focal_starts if is_small else self.focal_starts[:1],
        )


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Options of a reconstruction. `matching`: None is the feature's own rule.

    `cameras`: which images without known intrinsics one camera took (cameras.sharing.groups_of).

    Attributes:
        extraction: features of the images.
        pairs: which images are matched.
        matching: how two images are matched; null is the feature's own rule.
        refinement: sub-pixel keypoints.
        reconstruction: from matches to a model.
        intrinsics: known cameras: file of 'name MODEL width height params...' lines, or a model.
        cameras: which images without known intrinsics one camera took; auto is by size and EXIF.
    """

    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    pairs: PairsOptions = field(default_factory=PairsOptions)
    matching: MatchingOptions | None = None
    refinement: RefinementOptions = field(default_factory=lambda: RefinementOptions(enabled=True))
    reconstruction: ReconstructionOptions = field(default_factory=ReconstructionOptions)
    intrinsics: Path | None = None
    cameras: CameraSharing = "auto"

    @property
    def matching_rule(self) -> MatchingOptions:
        """The rule to match by: the one that was asked for, or else the feature's own."""
        return matching_rule_of(self.extraction.feature, self.matching)

    @property
    def refinement_rule(self) -> RefinementOptions:
        """How keypoints are refined: windows reach over a cell where the feature's are of cells."""
        return self.refinement.reaching(reach_of(self.extraction.feature))


@dataclass(frozen=True, kw_only=True)
class LocalizationOptions:
    """PnP with COLMAP's LO-RANSAC. `max_error` in pixels.

    `covisibility_clustering`: a pose for each group of retrieved images that see common points, and
    the one with most inliers; otherwise all matches go into one estimate.

    Attributes:
        max_error: largest reprojection error of an inlier, pixels of the original image.
        min_num_inliers: a query with fewer has no pose.
        covisibility_clustering: a pose for each group of images that see common points; the best
            stays.
        by_uncertainty: weight refined keypoints by how certain their places are.
        random_seed: of the hypotheses that are drawn.
    """

    max_error: float = 12.0
    min_num_inliers: int = 12
    covisibility_clustering: bool = False
    by_uncertainty: bool = True
    random_seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, max_error=PIXELS, min_num_inliers=(0, MANY), random_seed=SEEDS)


@dataclass(frozen=True, kw_only=True)
class Localize:
    """Options of a localization; features are extracted as the model's were.

    `cameras`: which queries without known intrinsics one camera took (cameras.sharing.groups_of).

    Attributes:
        pairs: which images of the model a query is matched with.
        matching: how a query is matched.
        refinement: sub-pixel keypoints of the queries.
        localization: from matches to a pose.
        intrinsics: known cameras: file of 'name MODEL width height params...' lines, or a model.
        cameras: which queries without known intrinsics one camera took; auto is by size and EXIF.
        camera_model: COLMAP's model of cameras without known intrinsics.
        masks: parts of queries in which no features are kept.
    """

    pairs: PairsOptions = field(default_factory=PairsOptions)
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    refinement: RefinementOptions = field(default_factory=lambda: RefinementOptions(enabled=True))
    localization: LocalizationOptions = field(default_factory=LocalizationOptions)
    intrinsics: Path | None = None
    cameras: CameraSharing = "auto"
    camera_model: str = MODEL  # of cameras without known intrinsics
    masks: MaskOptions = field(default_factory=MaskOptions)


@dataclass(frozen=True, kw_only=True)
class PairMatchingOptions:
    """Options of matching two images.

    Attributes:
        extraction: features of the images.
        matching: how they are matched; null is the feature's own rule.
        verification: the geometry that matches have to agree on.
        refinement: sub-pixel places of the second image's keypoints.
        spreading: matches refined before their geometry is estimated, by PoseLib, and more of them
            around its inliers.
    """

    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    matching: MatchingOptions | None = None
    verification: VerificationOptions = field(default_factory=VerificationOptions)
    refinement: RefinementOptions = field(default_factory=lambda: RefinementOptions(enabled=True))
    spreading: SpreadingOptions = field(default_factory=SpreadingOptions)

    @property
    def matching_rule(self) -> MatchingOptions:
        """The rule to match by: the one that was asked for, or else the feature's own."""
        return matching_rule_of(self.extraction.feature, self.matching)
