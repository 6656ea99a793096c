"""The device that this process computes on: one choice, the same in every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

if TYPE_CHECKING:  # takes a second, and arguments are read before
    import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DEVICES: tuple[str, ...] = get_args(DeviceName)

S = TypeVar("S")
T = TypeVar("T")

_asked: str = "auto"


def use_device(name: str) -> None:
    """Compute on a device from now on; auto is a GPU where there is one.

    Raises:
        ValueError: if it is none of DEVICES, or not there.
    """
    global _asked
    device_named(name)
    _asked = name


def chosen_device() -> torch.device:
    """The device to compute on, by use_device()."""
    return device_named(_asked)


def device_named(name: str) -> torch.device:
    """The device of a name.

    Raises:
        ValueError: if it is none of DEVICES, or not there.
    """
    import torch

    if name not in DEVICES:
        raise ValueError(f"there is no device {name!r}; known are {', '.join(DEVICES)}.")
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = "cuda" if there["cuda"] else "cpu"
    if not there[name]:
        raise ValueError(f"device: {name} is asked for, and torch finds none here; use cpu.")
    return torch.device(name)


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values on a device; to a GPU they go from pinned memory, and it computes meanwhile."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def free_memory_of(device: torch.device) -> int:
    """Bytes of a GPU's memory that are free; 0 of a device that does not tell."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def in_halves(work: Callable[[Sequence[S]], Iterable[T]], items: Sequence[S]) -> list[T]:
    """Results of work(items), or of their halves, and so on, where a GPU's memory is too small.

    Raises:
        torch.OutOfMemoryError: if one item alone is too much.
    """
    import torch

    try:
        return list(work(items))
    except torch.OutOfMemoryError:
        if len(items) < 2:
            raise
    torch.cuda.empty_cache()  # after the error, which holds what was computed, is gone
    middle = len(items) // 2
    return in_halves(work, items[:middle]) + in_halves(work, items[middle:])
