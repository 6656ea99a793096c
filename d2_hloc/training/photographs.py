"""Training pairs from single photographs: two views of each by random homographies, in other light.

Correspondences are exact, since the homography is known. What a plane cannot show, such as
occlusion, is missing from them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from kornia.geometry.transform import get_perspective_transform, warp_perspective
from PIL import Image
from torch import Tensor

from d2_hloc.core.homography_metrics import transfer
from d2_hloc.core.images import ImageError, open_image, to_tensor
from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.photographs.masks import are_visible, mask_file, visible_pixels
from d2_hloc.core.pixels import resize_matrix
from d2_hloc.core.ranges import MANY, check_ranges
from d2_hloc.files.provenance import file_checksum
from d2_hloc.training.pair import (
    CROP,
    MIN_CORRESPONDENCES,
    TrainingPair,
    are_inside,
    cell_centres,
    check_crop,
    generator,
    to_float,
    warn_once,
)
from d2_hloc.training.photometric import PhotometricOptions, relight

ATTEMPTS = 10  # at two views that have enough in common


@dataclass(frozen=True, kw_only=True)
class PhotoViewOptions:
    """Limits within which the second view differs from the first.

    Attributes:
        rotation: largest turn, degrees either way.
        scale: largest factor of size, either way.
        perspective: how far each corner may move, of a view's edge.
        shift: largest shift along either axis, of a view's edge.
        zoom: most pixels of the photograph in one of the first view.
    """

    rotation: float = 30.0  # degrees, either way, at most
    scale: float = 1.6  # larger or smaller by, at most
    perspective: float = 0.15  # of a view's edge, by which each corner may move
    shift: float = 0.25  # of a view's edge, along either axis, at most
    zoom: float = 1.5  # pixels of the photograph in one of the first view, at most

    def __post_init__(self) -> None:
        check_ranges(
            self,
            rotation=(0, 180),
            scale=(1, 100),
            perspective=(0, 0.5),
            shift=(0, 1),
            zoom=(1, 100),
        )


@dataclass(frozen=True, kw_only=True)
class PhotographOptions:
    """The pairs made from a folder of photographs.

    Attributes:
        pairs_per_photo: pairs of a photograph in an epoch.
        crop: edge of the crops, pixels.
        view: how far the second view may differ from the first.
        photometric: how lights differ.
        masks: parts of photographs that correspond to nothing.
    """

    pairs_per_photo: int = 1  # in an epoch
    crop: int = CROP
    view: PhotoViewOptions = field(default_factory=PhotoViewOptions)
    photometric: PhotometricOptions = field(default_factory=PhotometricOptions)
    masks: MaskOptions = field(default_factory=MaskOptions)

    def __post_init__(self) -> None:
        check_crop(self.crop)
        check_ranges(self, pairs_per_photo=(1, MANY))


class PhotographPairs:
    """A PairSource: `pairs_per_photo` pairs an epoch of each photograph."""

    def __init__(self, options: PhotographOptions, folder: Path, names: Sequence[str], seed: int):
        self.options, self.folder, self.names, self.seed = options, folder, list(names), seed

    @property
    def crop(self) -> int:
        """Edge of its crops, in pixels."""
        return self.options.crop

    @property
    def identity(self) -> str:
        """Digest of the photographs' names, and of their contents and masks."""
        folder = self.options.masks.folder
        files = [[self.folder / n, mask_file(folder, n)] for n in self.names]
        paths = [[path for path in found if path is not None] for found in files]
        contents = [file_checksum(*found) if found[0].is_file() else None for found in paths]
        return f"{zlib.crc32(repr([self.names, contents]).encode()):08x}"

    def __len__(self) -> int:
        return len(self.names) * self.options.pairs_per_photo

    def pair(self, epoch: int, index: int) -> TrainingPair | None:
        """Two views of a photograph, each with its own light."""
        name = self.names[index % len(self.names)]
        try:
            photo = open_image(self.folder / name)
            visible = visible_pixels(self.options.masks, self.folder, name, photo.size)
        except ImageError as error:
            warn_once(f"{error} It is left out.")
            return None
        rng = generator(self.seed, epoch, index)
        return pair_from_photograph(name, photo, self.options, rng, visible)


def pair_from_photograph(
    name: str,
    photo: Image.Image,
    options: PhotographOptions,
    rng: np.random.Generator,
    visible: np.ndarray | None = None,
) -> TrainingPair:
    """Make a pair of two random views of a photograph, drawn again while they share too little.

    `visible` are the photograph's pixels (H, W) that may correspond; None is all.
    """
    size = options.crop, options.crop
    for _ in range(ATTEMPTS):
        crops_from_photo = draw_views(photo.size, options.view, options.crop, rng)
        first, second = crops_from_photo
        xy0, xy1 = homography_correspondences(second @ np.linalg.inv(first), size)
        if visible is not None:
            seen = are_visible(visible, transfer(xy0, np.linalg.inv(first)))
            xy0, xy1 = xy0[seen], xy1[seen]
        if len(xy0) >= MIN_CORRESPONDENCES:
            break
    image0, image1 = (
        relight(warp(photo, homography, size), options.photometric, rng)
        for homography in crops_from_photo
    )
    return TrainingPair(
        name=name, image0=image0, image1=image1, xy0=to_float(xy0), xy1=to_float(xy1)
    )


def homography_correspondences(
    homography: Float[np.ndarray, "3 3"], size: tuple[int, int]
) -> tuple[Float[np.ndarray, "K 2"], Float[np.ndarray, "K 2"]]:
    """Cell centres of crop 0 that the homography keeps in crop 1, and where they are there."""
    xy0 = cell_centres(*size)
    xy1 = transfer(xy0, homography)
    keep = are_inside(xy1, *size)
    return xy0[keep], xy1[keep]


def draw_views(
    photo_size: tuple[int, int], options: PhotoViewOptions, crop: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Homographies from a photograph's pixels to those of two square crops."""
    limits = np.array(photo_size) - 1
    edge = min(crop * np.exp(rng.uniform(0, np.log(options.zoom))), limits.min() + 1) - 1
    centre = edge / 2 + rng.random(2) * (limits - edge)
    first = centre + edge / 2 * SQUARE
    scale = np.exp(rng.uniform(-1, 1) * np.log(options.scale))
    angle = np.deg2rad(options.rotation * rng.uniform(-1, 1))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = SQUARE / 2 @ turn.T + options.perspective * rng.uniform(-1, 1, (4, 2)) / 2
    moved = np.clip(centre + options.shift * edge * rng.uniform(-1, 1, 2), 0, limits)
    return square_from(first, crop), square_from(moved + scale * edge * corners, crop)


SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def square_from(corners: Float[np.ndarray, "4 2"], crop: int) -> Float[np.ndarray, "3 3"]:
    """The homography that takes these corners to those of a crop."""
    target = (SQUARE + 1) / 2 * (crop - 1)
    source, target = (torch.from_numpy(c)[None] for c in (corners, target))
    return get_perspective_transform(source, target)[0].numpy()


def warp(
    photo: Image.Image, homography: Float[np.ndarray, "3 3"], size: tuple[int, int]
) -> Float[Tensor, "3 H W"]:
    """A crop of a photograph under a homography. What reduces it is done first, with a filter."""
    width, height = photo.size
    middle = transfer(np.array([[0.0, 0], [1, 0], [0, 1]]) + np.array(photo.size) / 2, homography)
    steps = middle[1:] - middle[0]
    shrink = min(1.0, float(np.sqrt(abs(np.linalg.det(steps)))))
    if np.isfinite(shrink) and shrink < 0.9:
        small = max(1, round(width * shrink)), max(1, round(height * shrink))
        photo = photo.resize(small, Image.Resampling.BILINEAR)  # widens its support: no aliasing
        matrix = resize_matrix(photo.width / width, photo.height / height)
        homography = homography @ np.linalg.inv(matrix)
    matrix = torch.from_numpy(homography)[None].float()
    warped = warp_perspective(
        to_tensor(photo)[None],
        matrix,
        (size[1], size[0]),
        padding_mode="border",
        align_corners=True,
    )
    return warped[0]
