"""Inputs that hloc gives to matchers."""

from __future__ import annotations

from torch import Tensor


def given_size(data: dict[str, Tensor], k: str, needed_by: str) -> tuple[int, int]:
    """Size (w, h) of image k, "0" or "1", of `image_size`k, 1 x 2, or of the image itself.

    Raises:
        ValueError: if neither is given.
    """
    if f"image_size{k}" in data:
        width, height = data[f"image_size{k}"][0].tolist()
    elif f"image{k}" in data:
        height, width = data[f"image{k}"].shape[-2:]
    else:
        raise ValueError(f"{needed_by} needs the image's size: image_size{k}, or image{k}.")
    return int(width), int(height)
