"""Multi-scale detection: image pyramid, fusion of maps (Eq. 8) and response gating.

Each level is worked on in strips of rows. A level's fused maps are kept only while the next, finer
level needs them, so that the finest and largest is never whole in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from d2_hloc.network.backbone import Backbone, strips
from d2_hloc.network.description import GeneralizedMean, describe, has_corners
from d2_hloc.network.detection import detect

STRIP_CELLS = 1 << 16  # of the maps at once: 128 MiB in float32


@dataclass(frozen=True, kw_only=True)
class LevelFeatures:
    """Features of one image, on one level of the pyramid or a strip of it."""

    positions: Float[Tensor, "N 2"]  # row, column in cells of the level
    values: Float[Tensor, " N"]  # response at the integer cell
    descriptors: Float[Tensor, "N D"]


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level of the pyramid, with the features found on it in each image of the batch."""

    parts: list[LevelFeatures]
    index: int  # 0 is the first, the coarsest
    scale: float
    size: tuple[int, int]  # w, h of the level's image, pixels


def resize(images: Float[Tensor, "B 3 H W"], scale: float) -> Float[Tensor, "B 3 H2 W2"]:
    """One level of the pyramid. Corner pixels keep their place (align_corners).

    Raises:
        ValueError: if the images are so small that nothing is left of them.
    """
    if scale == 1:
        return images
    height, width = images.shape[2:]
    if min(height, width) * scale < 1:
        raise ValueError(f"An image of {width} x {height} is too small for the scale {scale:g}.")
    return F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=True)


def upsampled_rows(
    coarse: Float[Tensor, "B D h w"], size: tuple[int, int], top: int, bottom: int
) -> Float[Tensor, "B D rows W"]:
    """Rows top..bottom of `coarse` resized to `size` (h, w): bilinear, align_corners."""
    height, width = size
    ratio = (coarse.shape[2] - 1) / max(1, height - 1)
    rows = torch.arange(top, bottom, device=coarse.device) * ratio
    low = rows.floor().long().clamp(max=coarse.shape[2] - 1)
    high = (low + 1).clamp(max=coarse.shape[2] - 1)
    weight = (rows - low).to(coarse.dtype)[:, None]
    part = torch.lerp(coarse[:, :, low], coarse[:, :, high], weight)
    return F.interpolate(part, size=(bottom - top, width), mode="bilinear", align_corners=True)


def levels(
    backbone: Backbone,
    images: Float[Tensor, "B 3 H W"],
    scales: tuple[float, ...],
    edge_threshold: float,
    pools: list[GeneralizedMean],
) -> list[Level]:
    """The levels of the pyramid in the order of `scales`; `pools` take in each image's maps."""
    pyramid = Pyramid(scales, edge_threshold, pools)
    grow_pyramids(backbone, images, [pyramid])
    return pyramid.levels


def grow_pyramids(
    backbone: Backbone, images: Float[Tensor, "B 3 H W"], pyramids: Sequence[Pyramid]
) -> None:
    """Add the levels of several pyramids, coarse to fine; a size that they share is seen once."""
    for scale in sorted({s for pyramid in pyramids for s in pyramid.scales}):
        image = resize(images, scale)
        pooled = backbone.pooled(image)
        sharing = [p for p in pyramids if scale in p.scales]
        for pyramid in sharing:
            pyramid.begin(scale, backbone, pooled)
        for strip in strips_of_maps(backbone, pooled):
            for pyramid in sharing[:-1]:
                pyramid.add(replace(strip, maps=strip.maps.clone()))
            sharing[-1].add(strip)
        for pyramid in sharing:
            pyramid.finish((image.shape[3], image.shape[2]))


class Pyramid:
    """An image pyramid of a batch of images while it grows, coarse to fine."""

    def __init__(
        self, scales: tuple[float, ...], edge_threshold: float, pools: list[GeneralizedMean]
    ) -> None:
        """`pools` take in each image's maps."""
        self.scales, self.edge_threshold, self.pools = scales, edge_threshold, pools
        self.levels: list[Level] = []  # those that are done
        self.coarse: Tensor | None = None  # (B, D, h, w) fused maps of the level before
        self.found: Tensor | None = None  # (B, h, w) its cells that are banned on finer ones

    def begin(self, scale: float, backbone: Backbone, pooled: Float[Tensor, "B C h w"]) -> None:
        """Go on to the next level, whose maps are as large as `pooled`."""
        is_last = len(self.levels) == len(self.scales) - 1
        self.banned = resize_mask(self.found, pooled)
        self.fused = None if is_last else backbone.empty_maps(pooled)
        self.parts: list[list[LevelFeatures]] = [[] for _ in self.pools]

    def add(self, strip: Strip) -> None:
        """Fuse a strip of the level's maps, in place, with the coarser level's (Eq. 8); detect."""
        if self.coarse is not None:
            size, stop = (strip.height, strip.maps.shape[3]), strip.start + strip.maps.shape[2]
            strip.maps.add_(upsampled_rows(self.coarse, size, strip.start, stop))
        if self.fused is not None:
            self.fused[:, :, strip.top : strip.bottom] = strip.inner
        for k, maps in enumerate(strip.maps):
            self.pools[k].add(strip.inner[k])
            found = features_of_strip(maps, strip, self.banned[k], self.edge_threshold)
            self.parts[k].append(found)

    def finish(self, size: tuple[int, int]) -> None:
        """End the level, of an image of that size (w, h)."""
        self.coarse, self.found = self.fused, self.banned
        index, parts = len(self.levels), [joined_strips(p) for p in self.parts]
        scale = self.scales[index]
        self.levels.append(Level(parts=parts, index=index, scale=scale, size=size))


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Rows top..bottom of a level's maps, with one row more on either side where there is."""

    maps: Float[Tensor, "B D rows w"]
    start: int  # row of the level's maps that `maps` begins with
    top: int
    bottom: int
    height: int  # of the level's maps

    @property
    def inner(self) -> Float[Tensor, "B D rows w"]:
        """Rows top..bottom alone."""
        return self.maps[:, :, self.top - self.start : self.bottom - self.start]


def strips_of_maps(backbone: Backbone, pooled: Float[Tensor, "B 256 h w"]) -> Iterator[Strip]:
    """Compute a level's maps strip by strip."""
    batch, _, height, width = pooled.shape
    for top, bottom in strips(height, STRIP_CELLS // (batch * width)):
        start, stop = max(0, top - 1), min(height, bottom + 1)
        maps = backbone.dense_rows(pooled, start, stop)
        yield Strip(maps=maps, start=start, top=top, bottom=bottom, height=height)


def features_of_strip(
    maps: Float[Tensor, "D rows w"],
    strip: Strip,
    banned: Bool[Tensor, "h w"],
    edge_threshold: float,
) -> LevelFeatures:
    """Detect and describe; add the detections to `banned`, as the released code does before it
    drops those whose step is too large."""
    found = detect(maps, edge_threshold)
    rows, columns = (found.cells + found.cells.new_tensor([strip.start, 0])).T
    new = (rows >= strip.top) & (rows < strip.bottom) & ~banned[rows, columns]
    banned[rows[new], columns[new]] = True
    offset = maps.new_tensor([strip.start, 0], dtype=torch.float32)
    new &= found.stable & has_corners(found.positions + offset, strip.height, maps.shape[2])
    found = found.where(new)
    return LevelFeatures(
        positions=found.positions + offset,
        values=found.values,
        descriptors=describe(maps, found.positions),
    )


def resize_mask(
    mask: Bool[Tensor, "B h w"] | None, pooled: Float[Tensor, "B C H W"]
) -> Bool[Tensor, "B H W"]:
    """The cells found on coarser levels, at the size of this one: nearest neighbour."""
    batch, _, *size = pooled.shape
    if mask is None:
        return torch.zeros(batch, *size, dtype=torch.bool, device=pooled.device)
    return F.interpolate(mask[:, None].float(), size=size)[:, 0].bool()


def joined_strips(parts: list[LevelFeatures]) -> LevelFeatures:
    """Features of all strips of one image."""
    return LevelFeatures(
        positions=torch.cat([p.positions for p in parts]),
        values=torch.cat([p.values for p in parts]),
        descriptors=torch.cat([p.descriptors for p in parts]),
    )
