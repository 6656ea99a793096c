"""Sub-pixel keypoints from the network's own shallow maps: patches of one image found in another.

The trunk computes conv1_2 (a cell a pixel) and conv2_2 (a cell 2 x 2 pixels) on its way. Around a
match, the reference keypoint's patch is warped by the local affinity, correlated with a window of
the other image, first on conv2_2, then on conv1_2, and the top of a paraboloid through the best
cell's neighbours is the other keypoint's new place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from d2_hloc.core.devices import in_halves
from d2_hloc.core.pixels import cells_to_pixels, pixels_to_cells
from d2_hloc.core.threads import one_thread_an_operation
from d2_hloc.network.backbone import Backbone, strips
from d2_hloc.network.detection import first_differences, newton_steps, second_differences
from d2_hloc.refinement.affinities import inverse_2x2
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.refinement.uncertainty import peak_deviations

LEVELS = 255  # of a channel of a map: none is negative, after the ReLU
ROWS = 8  # of maps, normalised at once
HALO = 3  # rows of conv2_2 that a strip depends on, beyond itself
STRIP_PIXELS = 1 << 17  # of an image, whose maps are computed at once
DEVICE_STRIP_PIXELS = 1 << 21  # the same on a GPU
CHUNK = 32  # keypoints at once: their patches stay in the processor's cache
DEVICE_CHUNK = 1024  # keypoints at once on a GPU: their products take some 100 MB
MAX_STEP = 1.0  # cells, from the best cell to the paraboloid's top


class Outcome(IntEnum):
    """Outcome of a keypoint's refinement; only MOVED ones have a new place."""

    MOVED = 0
    BORDER = 1  # the best cell is the window's last
    FLAT = 2  # no peak, or another one as high


@dataclass(frozen=True, kw_only=True)
class ShallowMaps:
    """Unit vectors of one image times LEVELS, a cell's channels beside each other; a byte each."""

    fine: UInt8[Tensor, "H W 64"]  # conv1_2
    coarse: UInt8[Tensor, "h w 128"]  # conv2_2

    @property
    def nbytes(self) -> int:
        return self.fine.nbytes + self.coarse.nbytes


@dataclass(frozen=True, kw_only=True)
class Refined:
    """New places of keypoints, pixels of the image that the maps were made of.

    `deviations` of the places, in pixels along an axis, are NaN of those that were not moved.
    """

    xy: Float[Tensor, "K 2"]
    outcomes: Int[Tensor, " K"]
    deviations: Float[Tensor, " K"]


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Highest scores of windows: their (x, y) from the window's centre, in cells."""

    steps: Float[Tensor, "K 2"]
    outcomes: Int[Tensor, " K"]
    deviations: Float[Tensor, " K"]  # of the steps, in cells along an axis


def shallow_maps(backbone: Backbone, image: Float[Tensor, "3 H W"]) -> ShallowMaps:
    """conv1_2 and conv2_2 after their ReLUs, each cell at unit length.

    Computed strip by strip, with the rows around that a strip depends on. On a processor threads
    have strips of their own: of a few rows, the layers stay in its cache.
    """
    height, width = image.shape[1:]
    half, device, is_cpu = height // 2, image.device, image.device.type == "cpu"
    fine = torch.empty(height, width, 64, dtype=torch.uint8, device=device)
    coarse = torch.empty(half, width // 2, 128, dtype=torch.uint8, device=device)

    @torch.no_grad()  # of this thread
    def compute(strip: tuple[int, int]) -> None:
        top, bottom = strip
        start, stop = max(0, top - HALO), min(half, bottom + HALO)
        last, end = (height if row == half else 2 * row for row in (stop, bottom))
        maps = backbone.shallow(image[None, :, 2 * start : last])
        by_cell = [m[0].permute(1, 2, 0) for m in maps]
        _write_unit_cells(by_cell[0][2 * (top - start) : end - 2 * start], fine[2 * top : end])
        _write_unit_cells(by_cell[1][top - start : bottom - start], coarse[top:bottom])

    parts = strips(half, (STRIP_PIXELS if is_cpu else DEVICE_STRIP_PIXELS) // (2 * width))
    with _workers() as pool:
        list((pool.map if is_cpu else map)(compute, parts))
    return ShallowMaps(fine=fine, coarse=coarse)


def unit_cells(maps: Float[Tensor, "D h w"]) -> UInt8[Tensor, "h w D"]:
    """Each cell at unit length, times LEVELS. Threads have rows of their own."""
    by_cell = maps.permute(1, 2, 0)
    unit = torch.empty(by_cell.shape, dtype=torch.uint8, device=maps.device)
    with _workers() as pool:
        each = pool.map if maps.device.type == "cpu" else map
        list(each(_write_unit_cells, by_cell.split(ROWS), unit.split(ROWS)))
    return unit


def _write_unit_cells(by_cell: Float[Tensor, "h w D"], out: UInt8[Tensor, "h w D"]) -> None:
    """A few rows at a time: they stay in the processor's cache."""
    for rows, unit in zip(by_cell.split(ROWS), out.split(ROWS), strict=True):
        unit.copy_(F.normalize(rows.float(), dim=2).mul_(LEVELS).round_())


def refine_pairs(
    options: RefinementOptions,
    maps0: ShallowMaps,
    maps1: ShallowMaps,
    xy0: Float[Tensor, "K 2"],
    xy1: Float[Tensor, "K 2"],
    affinities: Float[Tensor, "K 2 2"] | None = None,
) -> Refined:
    """Move the second keypoint of each match to where the first one's patch is found.

    Places are in pixels of the images that the maps were made of; `affinities` bring offsets in
    image 0 to image 1 (local_affinities).
    """
    if affinities is None:
        affinities = torch.eye(2, device=xy0.device).expand(len(xy0), 2, 2)
    return in_chunks(partial(_refine_chunk, options, maps0, maps1), xy0, xy1, affinities)


def in_chunks(search: Callable[..., Refined], *values: Shaped[Tensor, "K ..."]) -> Refined:
    """The results of a search for K keypoints, a few at a time, in threads; on a GPU many."""
    count, is_cpu = len(values[0]), values[0].device.type == "cpu"
    length = CHUNK if is_cpu else DEVICE_CHUNK
    chunks = [range(k, min(k + length, count)) for k in range(0, max(1, count), length)]

    def work(rows: Sequence[int]) -> list[Refined]:
        first, last = (rows[0], rows[-1] + 1) if len(rows) else (0, 0)
        return [search(*(x[first:last] for x in values))]

    if is_cpu:
        with _workers() as pool:
            parts = [part for found in pool.map(work, chunks) for part in found]
    else:
        parts = [part for rows in chunks for part in in_halves(work, rows)]
    return Refined(
        xy=torch.cat([p.xy for p in parts]),
        outcomes=torch.cat([p.outcomes for p in parts]),
        deviations=torch.cat([p.deviations for p in parts]),
    )


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Threads, as many as torch would use for one operation, each with its own operations.

    On patches that fit in a cache, threads that share each operation only wait for each other.
    """
    with one_thread_an_operation() as count, ThreadPoolExecutor(count) as pool:
        yield pool


@torch.no_grad()
def _refine_chunk(
    options: RefinementOptions,
    maps0: ShallowMaps,
    maps1: ShallowMaps,
    xy0: Float[Tensor, "K 2"],
    xy1: Float[Tensor, "K 2"],
    affinities: Float[Tensor, "K 2 2"],
) -> Refined:
    inverse = inverse_2x2(affinities)
    xy, outcomes, template = xy1, torch.empty(0, dtype=torch.int64), torch.empty(0)
    deviations = torch.full((len(xy),), torch.nan, device=xy.device)
    for level in levels_of(options):
        map0, map1 = (m.coarse if level.stride == 2 else m.fine for m in (maps0, maps1))
        if level.is_first or level.stride == 1:
            origins = pixels_to_cells(xy0, level.stride)
            template = warped_patches(map0, origins, inverse, level.patch)
        centres = pixels_to_cells(xy, level.stride)
        if level.is_first:
            centres = centres.round()
        cells = square_patches(map1, centres, level.patch + level.window)
        scores = correlate(template, cells, level.patch, level.window)
        found = find_peaks(scores, options.ambiguity if level.is_first else 0.0)
        if level.is_first:
            outcomes = found.outcomes
        is_better = (outcomes == Outcome.MOVED) & (found.outcomes == Outcome.MOVED)
        is_better &= scores.flatten(1).amax(dim=1) >= level.min_score
        moved = cells_to_pixels(centres + found.steps, level.stride)
        xy = torch.where(is_better[:, None], moved, xy)
        deviations = torch.where(is_better, level.stride * found.deviations, deviations)
    return Refined(xy=xy, outcomes=outcomes, deviations=deviations)


@dataclass(frozen=True, kw_only=True)
class RefinementLevel:
    """One search: on which maps, sizes in cells.

    The first decides whether a keypoint moves. Later ones are about the fractional place found so
    far, so that template and window are interpolated alike and the paraboloid is not drawn to
    cells; where one fails, the place before it is good.
    """

    stride: int
    patch: int
    window: int
    is_first: bool = False
    min_score: float = -1.0  # mean cosine at the peak


def levels_of(options: RefinementOptions) -> list[RefinementLevel]:
    """Coarse to fine."""
    patch, window = options.coarse_patch, options.coarse_window
    levels = [
        RefinementLevel(stride=2, patch=patch, window=window, is_first=True),
        RefinementLevel(stride=2, patch=patch, window=1),
    ]
    if options.fine_window:
        patch, window = options.fine_patch, options.fine_window
        fine = RefinementLevel(stride=1, patch=patch, window=window, min_score=options.fine_score)
        levels.append(fine)
    return levels


def warped_patches(
    maps: Shaped[Tensor, "h w D"],
    centres: Float[Tensor, "K 2"],
    inverse: Float[Tensor, "K 2 2"],
    radius: int,
) -> Float[Tensor, "K P D"]:
    """Patches about fractional cells (x, y), row by row, as the other image shows them: unit."""
    steps = torch.arange(-radius, radius + 1, dtype=centres.dtype, device=centres.device)
    offsets = torch.cartesian_prod(steps, steps).flip(1)
    places = centres[:, None] + offsets @ inverse.transpose(1, 2)
    low = places.floor()
    weights = (places - low)[..., None]
    x, y = low.long().unbind(dim=2)
    top = torch.lerp(_at(maps, x, y), _at(maps, x + 1, y), weights[:, :, 0])
    bottom = torch.lerp(_at(maps, x, y + 1), _at(maps, x + 1, y + 1), weights[:, :, 0])
    return _unit(torch.lerp(top, bottom, weights[:, :, 1]))


def square_patches(
    maps: UInt8[Tensor, "h w D"], centres: Float[Tensor, "K 2"], radius: int
) -> Float[Tensor, "K P D"]:
    """Patches about fractional cells (x, y), row by row, not warped: unit.

    All cells of one patch lie at the same fractions, so that each is looked up once.
    """
    low = centres.floor()
    weights = (centres - low)[..., None, None, None]
    is_whole = not weights.any()
    x, y = low.long()[:, :, None].unbind(dim=1)
    span = torch.arange(-radius, radius + (1 if is_whole else 2), device=centres.device)
    cells = _at(maps, (x + span)[:, None], (y + span)[:, :, None])
    if not is_whole:
        cells = torch.lerp(cells[:, :, :-1], cells[:, :, 1:], weights[:, 0])
        cells = torch.lerp(cells[:, :-1], cells[:, 1:], weights[:, 1])
    return _unit(cells).flatten(1, 2)


def _at(maps: Shaped[Tensor, "h w D"], x: Tensor, y: Tensor) -> Tensor:
    """Cells, those beyond the map's border taken from it."""
    height, width, depth = maps.shape
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return maps.view(-1, depth).index_select(0, index.flatten()).float().view(*index.shape, depth)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def correlate(
    template: Float[Tensor, "K P D"], cells: Float[Tensor, "K Q D"], patch: int, window: int
) -> Float[Tensor, "K W W"]:
    """Mean cosine of a template with a window's cells, at every shift of `window` or less.

    All products of a template's cells with the window's are one matrix product; those that belong
    to a shift are then added up.
    """
    products = torch.bmm(template, cells.transpose(1, 2))
    side, shifts, span = 2 * patch + 1, 2 * window + 1, 2 * (patch + window) + 1
    products = products.view(len(template), side, side, span, span)
    scores = template.new_zeros(len(template), shifts, shifts)
    for i in range(side):
        for j in range(side):
            scores += products[:, i, j, i : i + shifts, j : j + shifts]
    return scores / side**2


def find_peaks(scores: Float[Tensor, "K W W"], ambiguity: float) -> Peaks:
    """Find the highest score of each window, to a fraction of a cell, and what it is worth."""
    count, size, _ = scores.shape
    best, index = scores.flatten(1).max(dim=1)
    row, column = index // size, index % size
    at_border = (row == 0) | (row == size - 1) | (column == 0) | (column == size - 1)
    inner_row, inner_column = row.clamp(1, size - 2), column.clamp(1, size - 2)
    span = torch.arange(-1, 2, device=scores.device)
    every = torch.arange(count, device=scores.device)[:, None, None]
    patches = scores[
        every, (inner_row[:, None] + span)[:, :, None], (inner_column[:, None] + span)[:, None]
    ]
    hessians = second_differences(patches)
    steps = newton_steps(first_differences(patches), hessians)
    dii, djj, dij = hessians.unbind(dim=1)
    is_peak = (dii < 0) & (dii * djj > dij**2) & (steps.abs() <= MAX_STEP).all(dim=1)
    rival = rival_scores(scores, row, column)
    outcomes = torch.where(is_peak & (best - rival >= ambiguity), Outcome.MOVED, Outcome.FLAT)
    outcomes = torch.where(at_border, int(Outcome.BORDER), outcomes)
    places = torch.stack([inner_column, inner_row], dim=1) - size // 2 + steps.flip(1)
    is_moved = (outcomes == Outcome.MOVED)[:, None]
    return Peaks(
        steps=torch.where(is_moved, places, torch.zeros_like(places)),
        outcomes=outcomes,
        deviations=peak_deviations(best, hessians),
    )


def rival_scores(
    scores: Float[Tensor, "K W W"], row: Int[Tensor, " K"], column: Int[Tensor, " K"]
) -> Float[Tensor, " K"]:
    """The highest score 3 cells or more from the best, -1 where the window has no such cell."""
    cells = torch.arange(scores.shape[1], device=scores.device)
    near_row = (cells - row[:, None]).abs() < 3
    near_column = (cells - column[:, None]).abs() < 3
    near = near_row[:, :, None] & near_column[:, None]
    return scores.masked_fill(near, -1).flatten(1).amax(dim=1)


def count_outcomes(outcomes: Int[Tensor, " K"]) -> dict[str, int]:
    """Count the keypoints that were moved, and those that were kept for each reason."""
    return {o.name.lower(): int((outcomes == o).sum()) for o in Outcome}
