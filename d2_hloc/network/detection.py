"""Hard detection (Eq. 3), the edge test, sub-cell localisation and soft detection (Eq. 4-7).

Second differences are taken at the candidates alone: the 3 x 3 values around each are gathered,
with zeros beyond the map, where the released code filters all channels everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

SoftForm = Literal["paper", "released"]

MAX_EXPONENT = 60.0  # of Eq. 4; float32 ends at 88
EPSILON = 1e-8  # of responses: what is less counts as none
ROUNDING = 1e-4  # of a response; true peaks have curvatures of some 1e-2 of theirs
MAX_STEP = 0.5  # cells, in either axis; a larger step belongs to a neighbouring cell


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Cells that pass Eq. 3 and the edge test, in order of rows, then columns."""

    cells: Int[Tensor, "N 2"]  # row, column
    values: Float[Tensor, " N"]  # the detecting channel's response
    steps: Float[Tensor, "N 2"]  # sub-cell step, row and column; may be too large

    def where(self, keep: Bool[Tensor, " N"]) -> Detections:
        """The detections of a mask."""
        return Detections(cells=self.cells[keep], values=self.values[keep], steps=self.steps[keep])

    @property
    def stable(self) -> Bool[Tensor, " N"]:
        """Mask of the detections whose step stays within their own cell."""
        return (self.steps.abs() < MAX_STEP).all(dim=1)

    @property
    def positions(self) -> Float[Tensor, "N 2"]:
        """Row, column with the sub-cell step."""
        return self.cells + self.steps


def detect(maps: Float[Tensor, "D h w"], edge_threshold: float = 5.0) -> Detections:
    """Hard detections (Eq. 3) that pass the edge test, with their sub-cell steps."""
    values, channels = maps.max(dim=0)
    cells = (is_local_maximum(maps, values, channels) & (values > 0)).nonzero()
    patches = neighbourhoods(maps, cells, channels[cells[:, 0], cells[:, 1]]).float()
    hessians = second_differences(patches)
    found = Detections(
        cells=cells,
        values=values[cells[:, 0], cells[:, 1]].float(),
        steps=newton_steps(first_differences(patches), hessians),
    )
    return found.where(is_not_edge(hessians, edge_threshold) & is_curved(hessians, found.values))


def is_local_maximum(
    maps: Float[Tensor, "D h w"], values: Float[Tensor, "h w"], channels: Int[Tensor, "h w"]
) -> Bool[Tensor, "h w"]:
    """Mask of the cells whose highest response is the highest of its channel in 3 x 3 (Eq. 3)."""
    _, height, width = maps.shape
    by_cell = maps.permute(1, 2, 0)
    result = torch.ones_like(values, dtype=torch.bool)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            if di == dj == 0:
                continue
            here, there = _overlap(height, di), _overlap(width, dj)
            beside = by_cell[_shift(here, di), _shift(there, dj)]
            neighbour = beside.gather(2, channels[here, there][..., None])[..., 0]
            result[here, there] &= values[here, there] >= neighbour
    return result


def _overlap(length: int, offset: int) -> slice:
    return slice(max(0, -offset), length - max(0, offset))


def _shift(part: slice, offset: int) -> slice:
    return slice(part.start + offset, part.stop + offset)


def neighbourhoods(
    maps: Float[Tensor, "D h w"], cells: Int[Tensor, "N 2"], channels: Int[Tensor, " N"]
) -> Float[Tensor, "N 3 3"]:
    """The 3 x 3 values around each cell in its channel; zero beyond the map."""
    _, height, width = maps.shape
    offsets = torch.arange(-1, 2, device=maps.device)
    rows = (cells[:, 0, None] + offsets)[:, :, None]
    columns = (cells[:, 1, None] + offsets)[:, None, :]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    return maps[channels[:, None, None], rows, columns] * inside


def first_differences(patches: Float[Tensor, "N 3 3"]) -> Float[Tensor, "N 2"]:
    """Central differences along rows (i) and columns (j)."""
    di = (patches[:, 2, 1] - patches[:, 0, 1]) / 2
    dj = (patches[:, 1, 2] - patches[:, 1, 0]) / 2
    return torch.stack([di, dj], dim=1)


def second_differences(patches: Float[Tensor, "N 3 3"]) -> Float[Tensor, "N 3"]:
    """The Hessian's ii, jj and ij."""
    dii = patches[:, 0, 1] - 2 * patches[:, 1, 1] + patches[:, 2, 1]
    djj = patches[:, 1, 0] - 2 * patches[:, 1, 1] + patches[:, 1, 2]
    corners = patches[:, 0, 0] - patches[:, 0, 2] - patches[:, 2, 0] + patches[:, 2, 2]
    return torch.stack([dii, djj, corners / 4], dim=1)


def is_not_edge(hessians: Float[Tensor, "N 3"], threshold: float) -> Bool[Tensor, " N"]:
    """Mask of the peaks whose principal curvatures have a ratio up to `threshold` (SIFT's test)."""
    dii, djj, dij = hessians.unbind(dim=1)
    determinant, trace = dii * djj - dij**2, dii + djj
    return (determinant > 0) & (trace**2 / determinant <= (threshold + 1) ** 2 / threshold)


def is_curved(hessians: Float[Tensor, "N 3"], values: Float[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """Mask of the peaks that stand out from rounding; maps of one colour are not quite even."""
    dii, djj, dij = hessians.unbind(dim=1)
    return dii * djj - dij**2 > (ROUNDING * values) ** 2


def newton_steps(
    gradients: Float[Tensor, "N 2"], hessians: Float[Tensor, "N 3"]
) -> Float[Tensor, "N 2"]:
    """Steps -H^-1 g, from a cell's centre to the top of the parabola through its neighbours."""
    (di, dj), (dii, djj, dij) = gradients.unbind(dim=1), hessians.unbind(dim=1)
    determinant = dii * djj - dij**2
    step_i = (dij * dj - djj * di) / determinant
    step_j = (dij * di - dii * dj) / determinant
    return torch.stack([step_i, step_j], dim=1)


def soft_scores(maps: Float[Tensor, "B D h w"], form: SoftForm = "paper") -> Float[Tensor, "B h w"]:
    """Soft detection scores s (Eq. 7) of non-negative maps; they sum to 1 over each image.

    An image without any response has scores of zero. EPSILON keeps the ratios defined there.
    """
    gamma = (soft_local_max(maps, form) * ratio_to_max(maps)).amax(dim=1)  # Eq. 6
    return gamma / gamma.sum(dim=(1, 2), keepdim=True).clamp(min=EPSILON)  # Eq. 7


def soft_local_max(
    maps: Float[Tensor, "B D h w"], form: SoftForm = "paper"
) -> Float[Tensor, "B D h w"]:
    """The soft local-maximum score alpha (Eq. 4), in 3 x 3 cells of each channel.

    'paper': exp(D) over the sum of its neighbours' in the map. 'released', as the authors' code:
    exp(D / max of the image's maps), and each neighbour beyond the border counts 1.
    """
    if form == "released":
        exponentials = torch.exp(maps / maps.amax(dim=(1, 2, 3), keepdim=True).clamp(min=EPSILON))
        padded = F.pad(exponentials, (1, 1, 1, 1), value=1.0)
        return exponentials / (9 * F.avg_pool2d(padded, 3, stride=1))
    # Responses reach thousands, and exp of them infinity; of their differences, only those count
    # that leave the score above zero.
    padded = F.pad(maps, (1, 1, 1, 1), value=-torch.inf)
    height, width = maps.shape[2:]
    total = torch.zeros_like(maps)
    for di in range(3):
        for dj in range(3):
            neighbours = padded[:, :, di : di + height, dj : dj + width]
            total = total + torch.exp((neighbours - maps).clamp(max=MAX_EXPONENT))
    return 1 / total


def ratio_to_max(maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
    """The soft channel selection beta (Eq. 5); zero on cells without any response."""
    return maps / maps.amax(dim=1, keepdim=True).clamp(min=EPSILON)
