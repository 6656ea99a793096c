"""The frozen trunk's activations of a fixed set of crops, kept on disk: computed once, read often.

They are kept in half precision, and read back even when they were just computed: an epoch gives
the same numbers whether the cache was there before or not.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from d2_hloc.core.ranges import MANY, check_ranges
from d2_hloc.files.provenance import note_configuration

MISSING = -1
LARGEST = 65504.0  # of half precision
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class TrunkExample:
    """A pair as the learning layers take it: the trunk's activations, and what corresponds."""

    activations: Float[Tensor, "2 D h w"]
    xy0: Float[Tensor, "K 2"]  # pixels of the crops, as in TrainingPair
    xy1: Float[Tensor, "K 2"]


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """Options of the cache. With one, the crops are fixed: every epoch sees those of the first.

    `enabled` is None for a cache on a CPU alone, where the trunk takes most of the time.

    Attributes:
        enabled: keep activations of fixed crops; null is on a CPU alone.
        max_gib: most space on disk, GiB; crops beyond it are computed every time.
    """

    enabled: bool | None = None
    max_gib: float = 8.0  # of disk; crops beyond it are computed every time

    def __post_init__(self) -> None:
        check_ranges(self, max_gib=(0, MANY))

    def is_enabled_on(self, device: torch.device) -> bool:
        """Tell whether to keep activations when computing there."""
        return device.type == "cpu" if self.enabled is None else self.enabled


class ActivationCache:
    """Store of examples by number, of which as many are kept as fit.

    Raises:
        ConfigurationChanged: if the folder was made with another configuration.
        OSError: if the disk has no room for it.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        shape: tuple[int, int, int],
        options: CacheOptions,
        configuration: dict[str, Any],
    ) -> None:
        """`shape` is (D, h, w), of one crop's activations."""
        cells = shape[1] * shape[2]
        pair_bytes = 2 * 2 * int(np.prod(shape)) + 4 * 4 * cells
        self.slots = min(count, int(options.max_gib * GIB) // pair_bytes)
        folder.mkdir(parents=True, exist_ok=True)
        note_configuration(folder, configuration | {"shape": shape, "count": count})
        self._counts = _open(folder / "counts", (self.slots,), np.int32, MISSING)
        self._activations = _open(folder / "activations", (self.slots, 2, *shape), np.float16)
        self._positions = _open(folder / "positions", (self.slots, cells, 4), np.float32)

    def has(self, index: int) -> bool:
        """Tell whether an example is here."""
        return index < self.slots and bool(self._counts[index] != MISSING)

    def get(self, index: int) -> TrunkExample:
        """An example that is here."""
        count = self._counts[index]
        positions = torch.from_numpy(np.array(self._positions[index, :count]))
        activations = torch.from_numpy(np.array(self._activations[index])).float()
        return TrunkExample(activations=activations, xy0=positions[:, :2], xy1=positions[:, 2:])

    def put(self, index: int, example: TrunkExample | None) -> TrunkExample | None:
        """Keep an example if there is room; the example as every later get() gives it.

        One that cannot be used is not kept: its files may be mended.
        """
        if index >= self.slots or example is None:
            return example
        values = example.activations.clamp(-LARGEST, LARGEST).half()
        self._activations[index] = values.cpu().numpy()
        positions = torch.cat([example.xy0, example.xy1], dim=1)
        self._positions[index, : len(positions)] = positions.numpy()
        self._counts[index] = len(positions)  # last: it says that the rest is whole
        return self.get(index)


def _open(path: Path, shape: tuple[int, ...], dtype: type, fill: int | None = None) -> np.ndarray:
    """A file as an array, its space reserved: a full disk would end the process later."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size == 0:
        return np.zeros(shape, dtype)
    if not path.is_file() or path.stat().st_size != size:
        start = np.full(shape, fill, dtype).tobytes() if fill is not None else b""
        with path.open("wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                path.unlink()
                raise OSError(
                    f"{path}: {size / GIB:.1f} GiB cannot be reserved ({error.strerror}); lower "
                    "cache.max_gib or free some space, and run again."
                ) from error
            file.write(start)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
