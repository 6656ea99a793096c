"""VGG16 up to conv4_3: image -> dense maps, in the paper's training form and its test form."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from d2_hloc.core.pixels import STRIDE
from d2_hloc.network import winograd

# name: (channels in, channels out, index in the published checkpoints)
LAYERS = {
    "conv1_1": (3, 64, 0),
    "conv1_2": (64, 64, 2),
    "conv2_1": (64, 128, 5),
    "conv2_2": (128, 128, 7),
    "conv3_1": (128, 256, 10),
    "conv3_2": (256, 256, 12),
    "conv3_3": (256, 256, 14),
    "conv4_1": (256, 512, 17),
    "conv4_2": (512, 512, 19),
    "conv4_3": (512, 512, 21),
}
CONV4 = ("conv4_1", "conv4_2", "conv4_3")
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
DIMENSION = 512
MIN_EDGE = 8  # pixels; the average pooling needs 2 x 2 cells
# Rows of cells that a row of the output depends on, beyond itself.
HALO_CONV3 = 5
HALO_CONV4 = 6
STRIP_PIXELS = 1 << 20  # of the input at once; full-resolution maps of 64 channels are the peak


class Backbone(nn.Module):
    """The trunk. Maps are (D, h, w); cell (0, 0) stands for the pixels that pixels.py says."""

    conv1_1: nn.Conv2d  # and so on; __init__ makes all of LAYERS
    conv1_2: nn.Conv2d
    conv2_1: nn.Conv2d
    conv2_2: nn.Conv2d
    conv4_3: nn.Conv2d

    def __init__(self) -> None:
        super().__init__()
        for name, (channels_in, channels_out, _) in LAYERS.items():
            # Empty: weights are loaded, and random ones would cost time and be a silent mistake.
            conv = nn.utils.skip_init(nn.Conv2d, channels_in, channels_out, 3, padding=1)
            self.add_module(name, conv.to(memory_format=torch.channels_last))

    def shallow(
        self, images: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B 64 H W"], Float[Tensor, "B 128 h w"]]:
        """Maps of conv1_2 at the image's size and conv2_2 at half of it, after their ReLUs."""
        x = preprocess(images).to(self.conv1_1.weight.dtype)
        fine = F.relu_(self.conv1_2(F.relu_(self.conv1_1(x))))
        coarse = F.relu_(self.conv2_1(F.max_pool2d(fine, 2)))
        return fine, F.relu_(self.conv2_2(coarse))

    def stages(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B D h w"]]:
        """Maps of conv1_2, conv2_2, conv3_3 and conv4_3 in the training form, after their ReLUs.

        A cell of each is two cells of the one before, from a pixel to 8 x 8 pixels.
        """
        *maps, x = self.shallow(images)
        maps.append(x)
        for names in (("conv3_1", "conv3_2", "conv3_3"), CONV4):
            x = F.max_pool2d(x, 2)
            for name in names:
                x = self._layer(name, x)
            maps.append(x)
        return maps

    def deep(
        self, images: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B 256 h w"], Float[Tensor, "B 512 h2 w2"]]:
        """Maps of conv3_3 and conv4_3 in the training form, after their ReLUs."""
        third = self._to_conv3(preprocess(images).to(self.conv1_1.weight.dtype))
        return third, F.relu_(self.training_head(F.max_pool2d(third, 2), "conv4_1"))

    def training_trunk(
        self, images: Float[Tensor, "B 3 H W"], until: str
    ) -> Float[Tensor, "B D h w"]:
        """Input of the layer `until`, one of conv4, in the training form: pool3 by maximum."""
        x = F.max_pool2d(self._to_conv3(preprocess(images)), 2)
        for name in CONV4[: CONV4.index(until)]:
            x = F.relu_(self.get_submodule(name)(x))
        return x

    def training_head(self, x: Float[Tensor, "B D h w"], start: str) -> Float[Tensor, "B 512 h w"]:
        """The training form from the layer `start`, one of conv4, to its maps, without a ReLU."""
        for name in CONV4[CONV4.index(start) : -1]:
            x = F.relu(self.get_submodule(name)(x))
        return self.conv4_3(x)

    def pooled(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 256 h w"]:
        """The test form up to pool3 (average 2 x 2, stride 1), strip by strip.

        Raises:
            ValueError: for an image with an edge below 8 pixels.
        """
        batch, _, height, width = images.shape
        check_edges(height, width)
        rows = height // STRIDE
        out = self._empty(batch, 256, rows - 1, width // STRIDE - 1)
        for top, bottom in strips(rows - 1, STRIP_PIXELS // (batch * width * STRIDE)):
            start, stop = max(0, top - HALO_CONV3), min(rows, bottom + 1 + HALO_CONV3)
            last = height if stop == rows else stop * STRIDE  # the remainder of a division by 4
            x = self._to_conv3(preprocess(images[:, :, start * STRIDE : last]).to(out.dtype))
            x = x[:, :, top - start : bottom + 1 - start]
            out[:, :, top:bottom] = F.avg_pool2d(x, 2, stride=1)
        return out

    def dense_rows(
        self, pooled: Float[Tensor, "B 256 h w"], top: int, bottom: int
    ) -> Float[Tensor, "B 512 rows w"]:
        """Rows top..bottom of the test form's maps: conv4 dilated by 2, ReLU at the end."""
        start, stop = max(0, top - HALO_CONV4), min(pooled.shape[2], bottom + HALO_CONV4)
        x, (height, width) = to_lattices(pooled[:, :, start:stop]), (stop - start, pooled.shape[3])
        for name in CONV4:
            x = self._layer(name, x)
            clear_beyond(x, height, width)
        maps = self._empty(len(pooled), DIMENSION, height, width)
        from_lattices(x, maps)
        return maps[:, :, top - start : bottom - start]

    def _to_conv3(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 256 h w"]:
        for name in tuple(LAYERS)[:7]:
            if name in ("conv2_1", "conv3_1"):
                x = F.max_pool2d(x, 2)
            x = self._layer(name, x)
        return x

    def _layer(self, name: str, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h w"]:
        """A convolution and its ReLU."""
        conv: nn.Conv2d = getattr(self, name)
        return F.relu_(winograd.convolve(conv, x) if winograd.is_faster(conv, x) else conv(x))

    def empty_maps(self, pooled: Float[Tensor, "B 256 h w"]) -> Float[Tensor, "B 512 h w"]:
        """Memory for the whole maps of these, to fill strip by strip."""
        batch, _, height, width = pooled.shape
        return self._empty(batch, DIMENSION, height, width)

    def _empty(self, batch: int, depth: int, height: int, width: int) -> Tensor:
        """Memory with channels last: the values of a cell lie beside each other."""
        like = self.conv1_1.weight
        shape = (batch, height, width, depth)
        return torch.empty(shape, dtype=like.dtype, device=like.device).permute(0, 3, 1, 2)


def preprocess(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """RGB in [0, 1] -> BGR, 0-255, minus the mean, as Caffe's VGG16 was trained."""
    mean = images.new_tensor(CAFFE_MEAN_BGR).view(1, 3, 1, 1)
    return (images.flip(1) * 255 - mean).contiguous(memory_format=torch.channels_last)


def strips(rows: int, height: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of strips that cover `rows`, of at most `height` rows, but one at least."""
    height = max(1, height)
    for top in range(0, rows, height):
        yield top, min(top + height, rows)


def to_lattices(maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "4*B D h2 w2"]:
    """The four sub-lattices of every second row and column, zeros where one is shorter.

    A convolution dilated by 2 is an ordinary one on each of them, and faster that way.
    """
    height, width = maps.shape[2:]
    padded = F.pad(maps, (0, width % 2, 0, height % 2))
    lattices = [padded[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return torch.cat(lattices).contiguous(memory_format=torch.channels_last)


def clear_beyond(lattices: Float[Tensor, "B4 D h2 w2"], height: int, width: int) -> None:
    """Set to zero, in place, what to_lattices padded: the next layer pads with zeros there."""
    _, odd_columns, odd_rows, both_odd = lattices.chunk(4)
    if height % 2:
        odd_rows[:, :, -1], both_odd[:, :, -1] = 0, 0
    if width % 2:
        odd_columns[..., -1], both_odd[..., -1] = 0, 0


def from_lattices(lattices: Float[Tensor, "B4 D h2 w2"], maps: Float[Tensor, "B D h w"]) -> None:
    """Undo to_lattices, into `maps`."""
    for k, lattice in enumerate(lattices.chunk(4)):
        part = maps[:, :, k // 2 :: 2, k % 2 :: 2]
        part.copy_(lattice[:, :, : part.shape[2], : part.shape[3]])


def check_edges(height: int, width: int) -> None:
    """Raise ValueError for an image that is too small for the network, edges in pixels."""
    if min(height, width) < MIN_EDGE:
        raise ValueError(f"An image of {width} x {height} is too small: {MIN_EDGE} at least.")
