"""3 x 3 convolutions in Winograd's form: a quarter of the products, as matrix products.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: F(4 x 4, 3 x 3) takes
tiles of 6 x 6 cells to 4 x 4 outputs, Y = A^T [(G g G^T) * (B^T d B)] A. Results differ from direct
sums by some 1e-5 of the largest response.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

OUTPUT, TILE = 4, 6  # cells along an edge
TILES_AT_ONCE = 128  # their transforms stay in the processor's cache
FILTERS_AT_ONCE = 16
FEWEST_CHANNELS = 128  # with fewer the transforms cost more than they save

# Interpolation at 0, 1, -1, 2, -2 and infinity.
INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
FILTER = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
RESULT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))

# Of each filter: the version of its values, and their transform.
_transformed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def is_faster(conv: nn.Conv2d, x: Tensor) -> bool:
    """Tell whether a layer and its input gain by this form. GPUs have their own ways."""
    is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
    if conv.weight.is_inference():  # made in inference mode: whether it changed cannot be known
        return False
    return is_plain and conv.in_channels >= FEWEST_CHANNELS and min(x.shape[2:]) >= TILE


def convolve(conv: nn.Conv2d, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h w"]:
    """A 3 x 3 convolution with zeros around, stride 1; channels last."""
    filters = transformed_filters(conv.weight)
    batch, _, height, width = x.shape
    rows, columns = -(-height // OUTPUT), -(-width // OUTPUT)
    beyond = 1, columns * OUTPUT - width + 1, 1, rows * OUTPUT - height + 1
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *beyond)).contiguous()
    out = x.new_empty(batch, rows, OUTPUT, columns, OUTPUT, conv.out_channels)
    step = max(1, TILES_AT_ONCE // columns)
    for image, result in zip(padded, out, strict=True):
        for top in range(0, rows, step):
            strip = tiles(image, top, min(step, rows - top), columns)
            result[top : top + step] = _outputs(strip, filters, conv.bias)
    whole = out.view(batch, rows * OUTPUT, columns * OUTPUT, conv.out_channels)
    return whole[:, :height, :width].permute(0, 3, 1, 2)


def tiles(
    padded: Float[Tensor, "h w C"], top: int, rows: int, columns: int
) -> Float[Tensor, "6 6 rows columns C"]:
    """Tiles that overlap by two cells, from the row `top` of them; a view."""
    down, right, channel = padded.stride()
    return padded.as_strided(
        (TILE, TILE, rows, columns, padded.shape[2]),
        (down, right, OUTPUT * down, OUTPUT * right, channel),
        padded.storage_offset() + top * OUTPUT * down,
    )


def _outputs(
    strip: Float[Tensor, "6 6 rows columns C"],
    filters: Float[Tensor, "36 C D"],
    bias: Float[Tensor, " D"] | None,
) -> Float[Tensor, "rows 4 columns 4 D"]:
    _, _, rows, columns, channels = strip.shape
    count = rows * columns
    data = _twice(INPUT, strip) @ strip.reshape(TILE * TILE, count * channels)
    products = torch.bmm(data.view(TILE * TILE, count, channels), filters)
    sums = _twice(RESULT, strip) @ products.view(TILE * TILE, -1)
    result = sums.view(OUTPUT, OUTPUT, rows, columns, -1)
    return (result if bias is None else result.add_(bias)).permute(2, 0, 3, 1, 4)


def _twice(matrix: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """A transform along rows and columns, as one matrix."""
    along = like.new_tensor(matrix)
    return torch.kron(along, along)


def transformed_filters(weight: Float[Tensor, "D C 3 3"]) -> Float[Tensor, "36 C D"]:
    """Transform G g G^T of each filter, kept until the weights change."""
    version = weight._version
    known = _transformed.get(weight)
    if known is None or known[0] != version:
        known = version, _transform(weight.detach())
        _transformed[weight] = known
    return known[1]


def _transform(weight: Float[Tensor, "D C 3 3"]) -> Float[Tensor, "36 C D"]:
    """Transform filters in double precision, a few at once: those stay in the cache too."""
    count, channels = weight.shape[:2]
    along = torch.tensor(FILTER, dtype=torch.float64)
    out = weight.new_empty(TILE * TILE, channels, count)
    for few, result in zip(
        weight.split(FILTERS_AT_ONCE), out.split(FILTERS_AT_ONCE, dim=2), strict=True
    ):
        taps = few.permute(2, 3, 1, 0).double().reshape(3, -1)
        rows = (along @ taps).view(TILE, 3, -1)
        result.copy_((along @ rows).view(result.shape))
    return out
