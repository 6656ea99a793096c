"""match_images: two images -> pixel matches, by one network, without training for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.devices import chosen_device
from d2_hloc.core.pixels import TRAINING_STRIDE, rescale
from d2_hloc.core.ranges import EDGES, check_ranges
from d2_hloc.features.projection import bundled_projection
from d2_hloc.matching.grown import place_descriptors
from d2_hloc.network.backbone import check_edges
from d2_hloc.network.cells import strongest_corners, textured_cells
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.options import CellOptions, D2NetOptions
from d2_hloc.refinement.coarse_to_fine import (
    CoarseToFineOptions,
    ImageStages,
    match_stages,
)
from d2_hloc.refinement.patches import ShallowMaps, unit_cells

FULL_SUPPORT = 40.0  # of a match that all its neighbours agree with, about


@dataclass(frozen=True, kw_only=True)
class ImageMatchingOptions:
    """Options of dense matches; images are reduced to `resize_max`, None leaves them."""

    resize_max: int | None = 1024
    d2net: D2NetOptions = field(default_factory=D2NetOptions)
    cells: CellOptions = field(default_factory=CellOptions)
    levels: CoarseToFineOptions = field(default_factory=CoarseToFineOptions)

    def __post_init__(self) -> None:
        check_ranges(self, resize_max=EDGES)


@dataclass(frozen=True, kw_only=True)
class PixelMatches:
    """Matched places of two images in their own pixels; (0, 0) is the centre of the first one."""

    keypoints0: Float[Tensor, "K 2"]
    keypoints1: Float[Tensor, "K 2"]
    confidences: Float[Tensor, " K"]  # in [0, 1], higher is better

    def __len__(self) -> int:
        return len(self.confidences)


class ImageMatcher:
    """Matches images; its network is made once."""

    def __init__(self, options: ImageMatchingOptions | None = None) -> None:
        """Load the weights that the options name.

        Raises:
            WeightsError: if there are no such weights.
        """
        self.options = options or ImageMatchingOptions()
        self._device = chosen_device()
        self._backbone = D2Net(self.options.d2net).backbone.to(self._device)
        self._projection = bundled_projection(self.options.cells.dimensions)

    def __call__(self, image0: Tensor, image1: Tensor) -> PixelMatches:
        """Match two images (3, H, W), RGB in [0, 1].

        Raises:
            ValueError: for other shapes, or an image with an edge below 8 pixels.
        """
        prepared = [self.prepare(image) for image in (image0, image1)]
        return self.match(*prepared)

    @torch.no_grad()
    def prepare(self, image: Tensor) -> PreparedImage:
        """All levels of an image, made once for all pairs that it is in."""
        image = checked(image)
        reduced = self._reduced(image.to(self._device))
        fine, coarse, deep, cells = self._backbone.stages(reduced[None])
        size = (reduced.shape[1], reduced.shape[2])
        features = textured_cells(cells[0].float(), size, reduced, self.options.cells.min_texture)
        corners = split_corners(reduced, features.keypoints.long(), self.options.levels.split)
        if self._projection is not None:
            features = replace(features, descriptors=self._projection.apply(features.descriptors))
        stages = ImageStages(
            cells=place_descriptors(features, (size[1], size[0])),
            deep=unit_cells(deep[0]),
            shallow=ShallowMaps(fine=unit_cells(fine[0]), coarse=unit_cells(coarse[0])),
            corners=corners,
        )
        scale = [image.shape[2] / size[1], image.shape[1] / size[0]]
        scale = torch.tensor(scale, dtype=torch.float64, device="cpu")  # where matches end
        return PreparedImage(stages=stages, scale=scale)

    @torch.no_grad()
    def match(self, image0: PreparedImage, image1: PreparedImage) -> PixelMatches:
        """Match two prepared images; what comes back is on the processor."""
        found = match_stages(self.options.levels, image0.stages, image1.stages)
        return PixelMatches(
            keypoints0=rescale(found.xy0.cpu().double(), image0.scale).float(),
            keypoints1=rescale(found.xy1.cpu().double(), image1.scale).float(),
            confidences=(found.support.cpu() / FULL_SUPPORT).clamp(0, 1),
        )

    def _reduced(self, image: Tensor) -> Tensor:
        longest, most = max(image.shape[1:]), self.options.resize_max
        if most is None or longest <= most:
            return image
        size = [max(TRAINING_STRIDE, round(edge * most / longest)) for edge in image.shape[1:]]
        return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


@dataclass(frozen=True, kw_only=True)
class PreparedImage:
    """All levels of an image, and its size over that of the levels (x, y)."""

    stages: ImageStages
    scale: Float[Tensor, " 2"]

    @property
    def nbytes(self) -> int:
        return self.stages.nbytes


def checked(image: Tensor) -> Float[Tensor, "3 H W"]:
    """An image as a tensor.

    Raises:
        ValueError: for another shape, whole numbers, or an edge below 8 pixels.
    """
    image = torch.as_tensor(image)
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise ValueError(
            "An image must be 3 x H x W, floating point in [0, 1], not "
            f"{tuple(image.shape)} of {image.dtype}."
        )
    check_edges(*image.shape[1:])
    return image


def split_corners(image: Tensor, keypoints: Tensor, split: int) -> Tensor:
    """The strongest corners (N, split * split, 2) of the parts of the keypoints' cells, pixels."""
    rows, columns = (edge // TRAINING_STRIDE for edge in image.shape[1:])
    covered = image[:, : rows * TRAINING_STRIDE, : columns * TRAINING_STRIDE]
    _, corners = strongest_corners(covered, (rows * split, columns * split))
    by_cell = corners.view(rows, split, columns, split, 2).transpose(1, 2)
    cells = keypoints // TRAINING_STRIDE
    return by_cell.reshape(rows, columns, split * split, 2)[cells[:, 1], cells[:, 0]]


def match_images(
    image0: Tensor, image1: Tensor, options: ImageMatchingOptions | None = None
) -> PixelMatches:
    """Match the pixels of two images; of several pairs, an ImageMatcher reads its weights once.

    Args:
        image0: (3, H, W), RGB in [0, 1].
        image1: likewise, of any size.
        options: the defaults where there are none.

    Returns:
        Places in both images, in their own pixels, to a fraction of one, and confidences.

    Raises:
        ValueError: for other shapes, or an image with an edge below 8 pixels.
    """
    return ImageMatcher(options)(image0, image1)
