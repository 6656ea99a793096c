"""Several processes that train one network, as torchrun starts them; one alone needs nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from d2_hloc.core.devices import chosen_device, device_named


@dataclass(frozen=True, kw_only=True)
class World:
    """Place of this process among all that train, and the device that it computes on."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """True in the process that writes the files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum values over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """This process's place among those that torchrun started, on `device` or what is there.

    Raises:
        ValueError: if a GPU is asked for and there is none.
    """
    place = chosen_device() if device == "auto" else device_named(device)
    is_cuda = place.type == "cuda"
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if is_cuda:
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if size == 1:
        yield World(device=place)
        return
    if is_cuda:
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if is_cuda else "gloo")
    try:
        yield World(rank=dist.get_rank(), size=size, device=place)
    finally:
        dist.destroy_process_group()
