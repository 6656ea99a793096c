"""Inputs that hloc gives to models, and features in the form that it takes them in."""

from __future__ import annotations

from torch import Tensor

from d2_hloc.core.structs import Features


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


def given_features(data: dict[str, Tensor], k: str) -> Features:
    """Features of image k, "0" or "1", of `keypoints`k, 1 x N x 2, and `descriptors`k, 1 x D x N.

    Where they are given, `scales`k and `pyramids`k, 1 x N, go with them; hloc gives no scores.
    """
    keypoints = data[f"keypoints{k}"][0].float()
    ones = keypoints.new_ones(len(keypoints))
    return Features(
        keypoints=keypoints,
        scores=ones,
        descriptors=data[f"descriptors{k}"][0].T.float(),
        scales=data[f"scales{k}"][0].float() if f"scales{k}" in data else ones,
        pyramids=data[f"pyramids{k}"][0].long() if f"pyramids{k}" in data else None,
    )


def single_image(image: Tensor, what: str) -> Tensor:
    """The image (3, H, W) of a batch of one; `what` names it in an error.

    Raises:
        ValueError: for another batch, since the number of features differs between images.
    """
    if image.ndim != 4 or image.shape[0] != 1:
        raise ValueError(f"{what} must be 1 x 3 x H x W, not {tuple(image.shape)}.")
    return image[0]


def batch_of_one(features: Features) -> dict[str, Tensor]:
    """Features of an image with a first dimension of 1.

    Keypoints are float64, so that hloc's `as_half`, which its pipelines leave on, passes them by:
    it halves float32 alone, and as float16 they would move in steps of a pixel from 1024 on.
    """
    found = {
        "keypoints": features.keypoints.double(),
        "scores": features.scores.float(),
        "descriptors": features.descriptors.T.float(),
        "scales": features.scales.float(),
    }
    if features.pyramids is not None:
        found["pyramids"] = features.pyramids
    if features.global_descriptor is not None:
        found["global_descriptor"] = features.global_descriptor.float()
    return {key: value[None] for key, value in found.items()}
