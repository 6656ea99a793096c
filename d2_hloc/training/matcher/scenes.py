"""Pairs of photographs of a place, whose depth says where each feature lies in the other.

Scenes are of MegaDepth's form, as `d2-hloc make-training-scene` writes them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from d2_hloc.core.images import to_tensor
from d2_hloc.core.ranges import MANY, SHARES, check_ranges
from d2_hloc.training.depth_maps import Depth, interpolate, project
from d2_hloc.training.matcher.cache import CachedView, Extract, read_views, to_bytes, write_views
from d2_hloc.training.matcher.truth import NOWHERE, TruthOptions, find_truth
from d2_hloc.training.megadepth import load_view
from d2_hloc.training.photometric import PhotometricOptions, relight
from d2_hloc.training.scene_info import SceneImage, read_scene

FIRST_LIGHT = PhotometricOptions(
    night=0, exposure=0.2, contrast=0.1, colour=0.05, blur=0.2, noise=0.005, jpeg=0.2
)


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """Which pairs of a scene, in how many lights, and whom depth is believed to show.

    Attributes:
        lights: lights of each image; the first is hardly another.
        min_overlap: least share of points that a pair has in common.
        min_partners: least partners of a pair.
        max_depth_error: largest difference of depths of one surface, of the depth.
        hidden_from: depth behind a surface from which a point is hidden, of the depth.
        photometric: how lights differ.
        truth: which points are partners.
    """

    lights: int = 2  # of each image; the first is hardly another
    min_overlap: float = 0.1
    min_partners: int = 24
    max_depth_error: float = 0.03  # of the depth: the same surface
    hidden_from: float = 0.08  # of the depth behind a surface: certainly hidden
    photometric: PhotometricOptions = field(default_factory=PhotometricOptions)
    truth: TruthOptions = field(default_factory=TruthOptions)

    def __post_init__(self) -> None:
        check_ranges(
            self,
            lights=(1, 1000),
            min_overlap=SHARES,
            min_partners=(0, MANY),
            max_depth_error=(1e-6, 1),
            hidden_from=(1e-6, 1e3),
        )


@dataclass(frozen=True, kw_only=True)
class ScenePair:
    """Features of two photographs, and where they lie in the other: NaN unknown, or NOWHERE."""

    keypoints0: Float[Tensor, "N0 2"]
    keypoints1: Float[Tensor, "N1 2"]
    descriptors0: Int8[Tensor, "N0 D"]
    descriptors1: Int8[Tensor, "N1 D"]
    in1: Float[Tensor, "N0 2"]
    in0: Float[Tensor, "N1 2"]
    size0: tuple[int, int]
    size1: tuple[int, int]

    def reversed(self) -> ScenePair:
        """The second photograph first."""
        return ScenePair(
            keypoints0=self.keypoints1,
            keypoints1=self.keypoints0,
            descriptors0=self.descriptors1,
            descriptors1=self.descriptors0,
            in1=self.in0,
            in0=self.in1,
            size0=self.size1,
            size1=self.size0,
        )


def scene_pairs(
    options: SceneOptions, root: Path, scenes: Sequence[Path], output: Path, extract: Extract
) -> list[ScenePair]:
    """All pairs of the scenes that have partners; features are kept in OUTPUT.

    Raises:
        SceneError, ImageError: if a scene, a depth map or an image cannot be used.
        DiskFull: if there is no space.
    """
    found: list[ScenePair] = []
    for path in tqdm(scenes, desc="scenes", unit="scene"):
        scene = read_scene(path, (options.min_overlap, 1.0), np.inf)
        used = sorted(set(scene.pairs.ravel().tolist()))
        images = {k: load_view(root, scene.views[k]) for k in used}
        lit = {
            k: lit_views(options, output / path.stem / f"{k}.safetensors", images[k][0], extract)
            for k in used
        }
        for i, j in scene.pairs.tolist():
            for view0 in lit[i]:
                for view1 in lit[j]:
                    pair = pair_of(
                        (scene.views[i], scene.views[j]),
                        (images[i][1], images[j][1]),
                        (view0, view1),
                        options,
                    )
                    if count_partners(pair, options.truth) >= options.min_partners:
                        found.append(pair)
    return found


def lit_views(
    options: SceneOptions, path: Path, image: Image.Image, extract: Extract
) -> list[CachedView]:
    """Features of an image in several lights, extracted once."""
    views = read_views(path)
    if views is not None and len(views) == options.lights:
        return views
    pixels, views = to_tensor(image), []
    for k in range(options.lights):
        rng = np.random.default_rng([k, zlib.crc32(str(path).encode())])
        features = extract(relight(pixels, options.photometric if k else FIRST_LIGHT, rng))
        size = pixels.shape[2], pixels.shape[1]
        views.append(
            CachedView(
                keypoints=features.keypoints,
                descriptors=to_bytes(features.descriptors),
                view_from_photo=np.eye(3),
                size=size,
                photo_size=size,
            )
        )
    write_views(path, views)
    return views


def pair_of(
    views: tuple[SceneImage, SceneImage],
    depths: tuple[Depth, Depth],
    found: tuple[CachedView, CachedView],
    options: SceneOptions,
) -> ScenePair:
    """Two images' features, each where the depth shows it in the other."""
    (view0, view1), (depth0, depth1), (first, second) = views, depths, found
    return ScenePair(
        keypoints0=first.keypoints,
        keypoints1=second.keypoints,
        descriptors0=first.descriptors,
        descriptors1=second.descriptors,
        in1=places(view0, view1, depth0, depth1, first.keypoints, options),
        in0=places(view1, view0, depth1, depth0, second.keypoints, options),
        size0=first.size,
        size1=second.size,
    )


def places(
    view0: SceneImage,
    view1: SceneImage,
    depth0: Depth,
    depth1: Depth,
    keypoints: Float[Tensor, "N 2"],
    options: SceneOptions,
) -> Float[Tensor, "N 2"]:
    """Where features of view 0 lie in view 1.

    NOWHERE are those outside its image or behind what it shows; NaN those whose own depth is not
    known, or where view 1's is not, so that they may be hidden.
    """
    xy0 = keypoints.double().numpy()
    z0, is_known = interpolate(depth0, xy0)
    xy1, z1 = project(view0, view1, xy0, z0)
    seen, is_seen = interpolate(depth1, xy1)
    height, width = depth1.shape
    is_inside = ((xy1 >= 0) & (xy1 <= [width - 1, height - 1])).all(axis=1)
    error = np.where(is_seen, z1 / np.maximum(seen, 1e-9) - 1, 0)
    place = np.where((is_seen & (np.abs(error) < options.max_depth_error))[:, None], xy1, np.nan)
    place[~is_inside | (is_seen & (error > options.hidden_from))] = NOWHERE
    place[~is_known] = np.nan
    return torch.from_numpy(place).float()


def count_partners(pair: ScenePair, options: TruthOptions) -> int:
    """How many features have a partner."""
    truth = find_truth(pair.keypoints0, pair.keypoints1, pair.in1, pair.in0, options)
    return int((truth.partner0 >= 0).sum())
