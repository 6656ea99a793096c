"""Options of the choice of pairs, of matching and of its networks, and of guided matching."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from d2_hloc.core.ranges import MANY, PIXELS, RATIOS, check_ranges
from d2_hloc.features.options import MOST
from d2_hloc.network.options import Precision

MATCHERS = ("nearest", "grown", "hierarchical", "lightglue")
FOR_CELLS = ("grown", "hierarchical")  # matchers of dense features
METHODS = ("exhaustive", "retrieval", "covisibility", "poses")
Search = Literal["exact", "approximate"]
BY_REFERENCE = ("covisibility", "poses")  # methods that ask what is known of the images


@dataclass(frozen=True, kw_only=True)
class PairsOptions:
    """Choice of pairs. 'auto' is exhaustive up to `max_exhaustive` images, retrieval beyond.

    `count` is the number of images that each is matched with: the nearest by global descriptors
    ('retrieval'), those that share most points of a model ('covisibility'), or those whose cameras
    are nearest and look the same way, to within `max_angle` degrees ('poses'). A query's 'auto' is
    exhaustive up to `count` images of the model: it has as many as an exhaustive search has for
    each image.

    `reference` is the COLMAP model that 'covisibility' and 'poses' ask, or for 'poses' a file of
    poses; None is the model that is triangulated.

    Attributes:
        method: all pairs, the nearest by global descriptors, or by what is known of the cameras.
        count: images that each one is matched with, where not all are.
        max_exhaustive: most images that auto matches all pairs of.
        max_angle: largest angle between the views of a pair by poses, degrees.
        reference: COLMAP model, or file of poses, that pairs by covisibility or poses are chosen
            by.
        file: list of pairs instead, a line 'image image' each.
        search: of the nearest images; approximate is for hundreds of thousands, and by FAISS.
    """

    method: Literal["auto", "exhaustive", "retrieval", "covisibility", "poses"] = "auto"
    count: int = 20
    max_exhaustive: int = 200
    max_angle: float = 45.0
    reference: Path | None = None
    file: Path | None = None  # a pair list instead
    search: Search = "exact"

    def __post_init__(self) -> None:
        check_ranges(self, count=(1, MANY), max_exhaustive=(1, MANY), max_angle=(1e-3, 180))

    def is_retrieval(self, num_images: int, largest: int) -> bool:
        """True if the nearest images are looked up, rather than all taken."""
        if self.file is not None:
            return False
        return self.method == "retrieval" or (self.method == "auto" and num_images > largest)

    @property
    def is_by_reference(self) -> bool:
        """True if pairs come from what is known of the images, rather than from features."""
        return self.file is None and self.method in BY_REFERENCE


@dataclass(frozen=True, kw_only=True)
class GrowingOptions:
    """Options of matches grown from neighbours; lengths in pixels of the images as extracted from.

    Attributes:
        min_support: of a match by those around it (consistency.local_consistency), to grow from it.
        noise: multiplies the tolerance of that support.
        reach: how far around a match others are looked for, pixels.
        radius: how far from the place where they are expected, pixels.
        spread: where the nearest matches' expectations differ by more, nothing is expected, pixels.
        votes: nearest matches that say where one is expected.
        candidates: keypoints around a match that are looked at.
        steps: how often matches grow.
    """

    min_support: float = 15.0
    noise: float = 2.0
    reach: float = 40.0
    radius: float = 20.0
    spread: float = 24.0
    votes: int = 4
    candidates: int = 21
    steps: int = 3

    def __post_init__(self) -> None:
        check_ranges(
            self,
            min_support=(0, MANY),
            noise=PIXELS,
            reach=PIXELS,
            radius=PIXELS,
            spread=PIXELS,
            votes=(2, 100),
            candidates=(2, 1000),
            steps=(1, 100),
        )


@dataclass(frozen=True, kw_only=True)
class MatchingOptions:
    """Rule of matching: nearest neighbours, what is made of these, or the learned matcher.

    Of all but 'lightglue' are `mutual` and the thresholds, which apply to both directions, as in
    hloc and COLMAP. `ratio_threshold`: largest distance to the first neighbour over distance to the
    second. `distance_threshold`: largest Euclidean distance of unit descriptors, at most 2.

    Of 'grown' is `growing`: where matches agree with those around them, others are looked for
    between them. It is for dense features.

    'hierarchical' is for densesfm: coarse cells that match say where fine ones are compared.

    Of 'lightglue' are its `weights`, bundled ones or a file; `min_score`, which a match has to
    exceed; `min_support`, by the matches around it; and `precision`.

    Attributes:
        matcher: nearest neighbours, matches grown from these, within these, or the learned one.
        mutual: keep matches that are nearest in both directions alone; of nearest.
        ratio_threshold: largest distance to the first neighbour over the second's; of nearest.
        distance_threshold: largest Euclidean distance of unit descriptors; of nearest.
        growing: how matches grow; of grown.
        weights: d2_lightglue (bundled), or a file's path; of lightglue.
        min_score: score that a match has to exceed, None for the matcher's own; of lightglue.
        min_support: by the matches around it that a match has to have, None for what finds most
            right ones, 0 for the network's matches as they are; of lightglue.
        precision: of the arithmetic; of lightglue.
        min_matches: a pair with fewer has none.
    """

    matcher: Literal["nearest", "grown", "hierarchical", "lightglue"] = "nearest"
    mutual: bool = True
    ratio_threshold: float | None = None
    distance_threshold: float | None = None
    growing: GrowingOptions = field(default_factory=GrowingOptions)
    weights: str = "d2_lightglue"
    min_score: float | None = None
    min_support: float | None = None
    precision: Precision = "float32"
    min_matches: int = 0  # fewer are none

    def __post_init__(self) -> None:
        check_ranges(
            self,
            ratio_threshold=RATIOS,
            distance_threshold=(1e-3, 2),
            min_score=(0, 1),
            min_support=(0, MANY),
            min_matches=(0, MANY),
        )
        for name in ("ratio_threshold", "distance_threshold"):
            if getattr(self, name) is not None and self.matcher == "lightglue":
                raise ValueError(f"{name} is of matcher 'nearest', not of {self.matcher!r}.")


@dataclass(frozen=True, kw_only=True)
class GuidedOptions:
    """Where a keypoint's match is looked for; lengths in pixels.

    Off, since a model gains nothing from it: more points, but less precise ones (docs/geometry.md).

    `radius` is about the place to which the nearest verified match leads, and grows by `slope` of
    the distance to that match. `ratio_threshold` compares candidates alone; 1 is none.

    Attributes:
        enabled: look again for matches along epipolar lines.
        radius: about the place where a match is looked for, pixels.
        slope: growth of the radius by each pixel to the nearest verified match.
        ratio_threshold: largest ratio of the first candidate's distance to the second's; 1 is none.
    """

    enabled: bool = False
    radius: float = 24.0
    slope: float = 0.3
    ratio_threshold: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, radius=PIXELS, slope=(0, 10), ratio_threshold=RATIOS)


@dataclass(frozen=True, kw_only=True)
class GlueShape:
    """The size of the network; descriptors have `input_width` numbers, those inside `width`.

    Attributes:
        input_width: numbers of a descriptor.
        width: numbers inside.
        heads: heads of attention.
        layers: layers, each of self and cross attention.
    """

    input_width: int = MOST
    width: int = 128
    heads: int = 2
    layers: int = 5

    def __post_init__(self) -> None:
        if self.layers < 1 or self.width % (2 * self.heads) or self.width >= self.input_width:
            raise ValueError(
                f"a matcher of {self.layers} layers with {self.heads} heads cannot take "
                f"{self.input_width} numbers to {self.width}: it needs a layer, heads of an even "
                "width, and a width below that of the descriptors."
            )
