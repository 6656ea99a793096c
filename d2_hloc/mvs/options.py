"""Options of multi-view stereo."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.ranges import EDGES, MANY, PIXELS, check_ranges

MIN_IMAGE_SIZE = 64  # pixels; in less there are no windows to compare
Stage = Literal["prepare", "maps", "consistency"]
STAGES: tuple[Stage, ...] = ("prepare", "maps", "consistency")


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Hypotheses and windows of the sweep.

    `hypotheses` planes lie evenly in inverse depth. Each of the `refinements` tries
    `refinement_hypotheses` more about the best one. A pixel's score is the mean NCC of its
    `best_sources` sources, so that those where it is hidden do not count; below `min_ncc` it has no
    depth.

    Attributes:
        hypotheses: planes of the first sweep, even in inverse depth.
        refinements: sweeps after it, about the best surfaces.
        refinement_hypotheses: surfaces that each of them tries.
        window: edge of the windows that are compared, pixels; odd.
        best_sources: sources whose scores count in each pixel.
        min_ncc: least normalised cross-correlation of a depth that is kept.
    """

    hypotheses: int = 96
    refinements: int = 2
    refinement_hypotheses: int = 9
    window: int = 7  # pixels
    best_sources: int = 2
    min_ncc: float = 0.6

    def __post_init__(self) -> None:
        check_ranges(
            self,
            hypotheses=(3, 10**5),
            refinements=(1, 100),
            refinement_hypotheses=(3, 1000),
            window=(3, 101),
            best_sources=(1, 1000),
            min_ncc=(-1, 1),
        )
        if self.window % 2 == 0:
            raise ValueError(f"window is {self.window}; it takes an odd number from 3 on.")


@dataclass(frozen=True, kw_only=True)
class ConsistencyOptions:
    """A depth stays where `min_num_views` of `num_views` other views confirm it.

    A view confirms it if its own depth there differs by `max_depth_error` of it at most, and leads
    back to within `max_reproj_error` pixels.

    Attributes:
        min_num_views: views that have to confirm a depth.
        num_views: views that are asked.
        max_depth_error: largest difference of two depths, as a share of the depth.
        max_reproj_error: largest distance after going to a view and back, pixels.
    """

    min_num_views: int = 2
    num_views: int = 8
    max_depth_error: float = 0.01
    max_reproj_error: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            min_num_views=(0, MANY),
            num_views=(1, MANY),
            max_depth_error=(1e-6, 1),
            max_reproj_error=PIXELS,
        )


@dataclass(frozen=True, kw_only=True)
class FusionOptions:
    """Limits within which pixels become one point: in pixels, a share of the depth, and degrees.

    Attributes:
        min_num_pixels: least pixels of a point.
        max_reproj_error: largest distance of a pixel to its point's, pixels.
        max_depth_error: largest difference of depths, as a share of the depth.
        max_normal_error: largest angle between normals, degrees.
    """

    min_num_pixels: int = 3
    max_reproj_error: float = 1.5
    max_depth_error: float = 0.01
    max_normal_error: float = 25.0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            min_num_pixels=(1, 10**6),
            max_reproj_error=PIXELS,
            max_depth_error=(1e-6, 1),
            max_normal_error=(1e-3, 180),
        )


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """Poisson reconstruction. `trim` cuts away what few points support; more cuts more.

    Attributes:
        enabled: make a mesh of the cloud.
        depth: of Poisson's octree; each more halves its cells.
        trim: cuts away what few points support; more cuts more.
    """

    enabled: bool = False
    depth: int = 9
    trim: float = 5.0

    def __post_init__(self) -> None:
        check_ranges(self, depth=(1, 14), trim=(0, 20))


@dataclass(frozen=True, kw_only=True)
class DenseOptions:
    """Options of dense stereo, from a model to a point cloud.

    Images are undistorted with their longest edge at most `max_image_size` pixels. `backend` makes
    the depth maps: 'torch' is the package's plane sweep with `sweep`, 'colmap' PatchMatch, which
    needs pycolmap with CUDA and a GPU, and 'auto' takes COLMAP's where it can run.

    Attributes:
        backend: the package's plane sweep (torch), COLMAP's PatchMatch, or that where it can run.
        max_image_size: longest edge of the undistorted images, pixels.
        num_sources: other images that a depth map is made from.
        sweep: hypotheses and windows of the plane sweep.
        consistency: depths that other views confirm.
        fusion: pixels that become one point.
        mesh: surface through the cloud.
        masks: parts of images that have no depth; those of the model's own run, if none are named.
    """

    backend: Literal["auto", "colmap", "torch"] = "auto"
    max_image_size: int = 1200
    num_sources: int = 4
    sweep: SweepOptions = field(default_factory=SweepOptions)
    consistency: ConsistencyOptions = field(default_factory=ConsistencyOptions)
    fusion: FusionOptions = field(default_factory=FusionOptions)
    mesh: MeshOptions = field(default_factory=MeshOptions)
    masks: MaskOptions = field(default_factory=MaskOptions)

    def __post_init__(self) -> None:
        check_ranges(self, max_image_size=(MIN_IMAGE_SIZE, EDGES[1]), num_sources=(1, MANY))
