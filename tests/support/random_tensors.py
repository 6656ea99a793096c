"""Random numbers that are the same on every device: made on the processor, and moved."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def random_normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normally distributed numbers, on the default device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    numbers = torch.randn(shape, generator=generator, dtype=dtype, device="cpu")
    return numbers.to(torch.get_default_device())


def random_unit(*shape: int, seed: int) -> Tensor:
    """Vectors of unit length along the last axis, in every direction alike."""
    return F.normalize(random_normal(*shape, seed=seed), dim=-1)


def random_uniform(*shape: int, seed: int) -> Tensor:
    """Numbers between 0 and 1, on the default device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.rand(shape, generator=generator, device="cpu").to(torch.get_default_device())


def random_order(count: int, seed: int) -> Tensor:
    """The numbers below `count` in another order, on the default device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randperm(count, generator=generator, device="cpu").to(torch.get_default_device())


def random_module(make: Callable[[], M], seed: int) -> M:
    """A module with the weights that it draws when it is made, on the default device."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        module = make()
    return module.to(torch.get_default_device())
