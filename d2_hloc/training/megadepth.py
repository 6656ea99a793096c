"""MegaDepth's training pairs: crops of two photographs, with correspondences from depth maps.

A data set is a folder that the scenes' paths refer to (`phoenix`, `Undistorted_SfM`) and a folder
of scenes, in D2-Net's or LoFTR's form (see scene_info.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from d2_hloc.core.images import ImageError, open_image, to_tensor
from d2_hloc.core.ranges import MANY, check_ranges
from d2_hloc.training.depth_maps import Depth, corresponding_pixels, read_depth
from d2_hloc.training.pair import (
    CROP,
    MIN_CORRESPONDENCES,
    TrainingPair,
    are_inside,
    cell_centres,
    check_crop,
    generator,
    split,
    to_float,
    warn_once,
)
from d2_hloc.training.scene_info import SceneError, SceneImage, SceneInfo, read_scene

ATTEMPTS = 5  # at crops of a pair that have enough in common
SCENES_HELD = 256


@dataclass(frozen=True, kw_only=True)
class MegaDepthOptions:
    """Options of MegaDepth's pairs; the defaults are the paper's and its code's.

    Attributes:
        min_overlap: least share of points that a pair has in common.
        max_overlap: largest share.
        max_scale_ratio: largest ratio of scales of the points that both see.
        pairs_per_scene: pairs of a scene in an epoch.
        crop: edge of the crops, pixels.
        max_depth_error: largest difference of depths of one surface, of the depth.
    """

    min_overlap: float = 0.5
    max_overlap: float = 1.0
    max_scale_ratio: float = float("inf")
    pairs_per_scene: int = 100  # in an epoch
    crop: int = CROP
    max_depth_error: float = 0.05  # of the depth

    def __post_init__(self) -> None:
        if not 0 <= self.min_overlap <= self.max_overlap <= 1:
            raise ValueError(
                f"overlaps must be in [0, 1], not {self.min_overlap} to {self.max_overlap}."
            )
        check_crop(self.crop)
        check_ranges(
            self,
            max_scale_ratio=(1, float("inf")),
            pairs_per_scene=(1, MANY),
            max_depth_error=(1e-6, 1),
        )


@dataclass(frozen=True, kw_only=True)
class ScenePart:
    """A part of each scene's pairs: those with an image that is held back, or those without."""

    share: float  # of the images
    is_held_back: bool


class MegaDepthPairs:
    """A PairSource: `pairs_per_scene` random pairs an epoch of each scene, or of a part of it."""

    def __init__(
        self,
        options: MegaDepthOptions,
        root: Path,
        scenes: Sequence[Path],
        part: ScenePart | None = None,
        *,
        seed: int,
    ) -> None:
        self.options, self.root, self.scenes, self.seed = options, root, list(scenes), seed
        self.part = part

    @property
    def crop(self) -> int:
        """Edge of its crops, in pixels."""
        return self.options.crop

    @property
    def identity(self) -> str:
        """Digest of the scenes' files."""
        digest = 0
        for path in self.scenes:
            digest = zlib.crc32(path.read_bytes(), zlib.crc32(path.name.encode(), digest))
        return f"{digest:08x}"

    def __len__(self) -> int:
        return len(self.scenes) * self.options.pairs_per_scene

    def pair(self, epoch: int, index: int) -> TrainingPair | None:
        """A random pair of the index's scene, at a random point that both images show."""
        path = self.scenes[index // self.options.pairs_per_scene]
        rng = generator(self.seed, epoch, index)
        try:
            scene = _read(path, self.options, self.part)
            if not len(scene.pairs):
                raise SceneError(f"{path}: no two of its images overlap as is asked for.")
            chosen = scene.pairs[rng.integers(len(scene.pairs))]
            views = [scene.views[int(k)] for k in chosen]
            return pair_from_views(self.root, views[0], views[1], self.options, rng)
        except (SceneError, ImageError) as error:
            warn_once(f"{error} The pair is left out.")
            return None


@lru_cache(maxsize=SCENES_HELD)
def _read(path: Path, options: MegaDepthOptions, part: ScenePart | None) -> SceneInfo:
    limits = options.min_overlap, options.max_overlap
    scene = read_scene(path, limits, options.max_scale_ratio)
    return scene if part is None else part_of(scene, part)


def part_of(scene: SceneInfo, part: ScenePart) -> SceneInfo:
    """The scene with the pairs of its part. The images held back are always the same."""
    _, held_back = split(sorted(scene.views), part.share, seed=0)
    is_held_back = np.isin(scene.pairs, held_back).any(axis=1)
    return replace(scene, pairs=scene.pairs[is_held_back == part.is_held_back])


def pair_from_views(
    root: Path,
    view0: SceneImage,
    view1: SceneImage,
    options: MegaDepthOptions,
    rng: np.random.Generator,
) -> TrainingPair | None:
    """Make a pair: crops of two views around a point that both show, and correspondences.

    None where the images show nothing in common or are smaller than a crop.

    Raises:
        SceneError: if a depth map cannot be used or is not of its image's size.
        ImageError: if an image cannot be used.
    """
    (image0, depth0), (image1, depth1) = (load_view(root, view) for view in (view0, view1))
    images = image0, image1
    for image, view in zip(images, (view0, view1), strict=True):
        if min(image.size) < options.crop:
            warn_once(f"{root / view.image}: is smaller than a crop; its pairs are left out.")
            return None
    grid = cell_centres(*image0.size)
    centres = corresponding_pixels(view0, view1, depth0, depth1, grid, options.max_depth_error)
    if not len(centres[0]):
        return None
    for _ in range(ATTEMPTS):
        k = rng.integers(len(centres[0]))
        corners = [
            corner(xy[k], image.size, options.crop)
            for xy, image in zip(centres, images, strict=True)
        ]
        xy0, xy1 = corresponding_cells(view0, view1, (depth0, depth1), corners, options)
        if len(xy0) >= MIN_CORRESPONDENCES:
            break
    crops = [
        to_tensor(image.crop((*xy.tolist(), *(xy + options.crop).tolist())))
        for image, xy in zip(images, corners, strict=True)
    ]
    return TrainingPair(
        name=f"{view0.image} - {view1.image}",
        image0=crops[0],
        image1=crops[1],
        xy0=to_float(xy0),
        xy1=to_float(xy1),
    )


def load_view(root: Path, view: SceneImage) -> tuple[Image.Image, Depth]:
    """A view's photograph and depth map.

    Raises:
        SceneError: if the depth map cannot be used or is not of the image's size.
        ImageError: if the image cannot be used.
    """
    depth, image = read_depth(root / view.depth), open_image(root / view.image)
    if image.size != depth.shape[::-1]:
        raise SceneError(
            f"{root / view.depth}: is {depth.shape[1]} x {depth.shape[0]} but its image is "
            f"{image.width} x {image.height}; both must be of the undistorted images."
        )
    return image, depth


def corner(xy: np.ndarray, size: tuple[int, int], crop: int) -> np.ndarray:
    """The first pixel (x, y) of a crop around a position, inside the image."""
    return np.clip(xy.round().astype(int) - crop // 2, 0, np.array(size) - crop)


def corresponding_cells(
    view0: SceneImage,
    view1: SceneImage,
    depths: Sequence[Depth],
    corners: Sequence[np.ndarray],
    options: MegaDepthOptions,
) -> tuple[np.ndarray, np.ndarray]:
    """Cell centres of crop 0 that crop 1 shows too, and where, in pixels of either crop."""
    grid = cell_centres(options.crop, options.crop) + corners[0]
    xy0, xy1 = corresponding_pixels(
        view0, view1, depths[0], depths[1], grid, options.max_depth_error
    )
    xy0, xy1 = xy0 - corners[0], xy1 - corners[1]
    keep = are_inside(xy1, options.crop, options.crop)
    return xy0[keep], xy1[keep]
