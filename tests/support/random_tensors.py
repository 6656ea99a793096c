"""Random numbers that are the same on every device: made on the processor, and moved."""

import torch
from torch import Tensor


def random_normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normally distributed numbers, on the default device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    numbers = torch.randn(shape, generator=generator, dtype=dtype, device="cpu")
    return numbers.to(torch.get_default_device())


def random_uniform(*shape: int, seed: int) -> Tensor:
    """Numbers between 0 and 1, on the default device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.rand(shape, generator=generator, device="cpu").to(torch.get_default_device())


def random_order(count: int, seed: int) -> Tensor:
    """The numbers below `count` in another order, on the default device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randperm(count, generator=generator, device="cpu").to(torch.get_default_device())
