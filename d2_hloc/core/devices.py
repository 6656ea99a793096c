"""The device that this process computes on: one choice, the same in every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # takes a second, and arguments are read before
    import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DEVICES: tuple[str, ...] = get_args(DeviceName)

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
