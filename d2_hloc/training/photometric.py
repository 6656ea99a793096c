"""Strong changes of light and camera for training crops: night, exposure, blur, noise, JPEG.

Light adds up and cameras gain in linear intensities, so those are what is changed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from kornia.filters import gaussian_blur2d
from PIL import Image
from torch import Tensor

from d2_hloc.core.images import to_tensor
from d2_hloc.core.ranges import SHARES, check_ranges

GAMMA = 2.2
WARM = np.array([1.0, 0.72, 0.38])  # a street lamp, red to blue
SKY = np.array([0.75, 0.9, 1.2])  # what is left of the daylight


@dataclass(frozen=True, kw_only=True)
class PhotometricOptions:
    """Limits of the changes; each crop draws its own. Zeros leave it as it is.

    Attributes:
        night: share of crops by night.
        exposure: largest change, stops.
        contrast: largest change, of 1.
        colour: largest change of each channel's gain.
        blur: largest sigma, pixels.
        noise: largest sigma, of white.
        jpeg: share of crops that are compressed.
    """

    night: float = 0.35  # share of crops
    exposure: float = 1.0  # stops up or down, at most
    contrast: float = 0.3  # of 1, up or down, at most
    colour: float = 0.15  # of each channel's gain, up or down, at most
    blur: float = 1.2  # sigma in pixels, at most
    noise: float = 0.04  # sigma in white's units, at most
    jpeg: float = 0.5  # share of crops

    def __post_init__(self) -> None:
        check_ranges(
            self,
            night=SHARES,
            exposure=(0, 10),
            contrast=SHARES,
            colour=SHARES,
            blur=(0, 100),
            noise=SHARES,
            jpeg=SHARES,
        )


def relight(
    image: Float[Tensor, "3 H W"], options: PhotometricOptions, rng: np.random.Generator
) -> Float[Tensor, "3 H W"]:
    """A crop, RGB in [0, 1], under another light and through another camera."""
    linear = image.clamp(0, 1) ** GAMMA
    is_night = rng.random() < options.night
    if is_night:
        linear = night(linear, rng)
    gains = 2 ** rng.uniform(-options.exposure, options.exposure)
    gains = gains * (1 + options.colour * rng.uniform(-1, 1, 3))
    linear = blur(linear * as_channels(gains), options.blur * rng.random())
    sigma = options.noise * rng.random() * (2 if is_night else 1)
    linear = add_noise(linear, sigma, rng)
    result = linear.clamp(0, 1) ** (1 / GAMMA)
    contrast = 1 + options.contrast * rng.uniform(-1, 1)
    result = ((result - result.mean()) * contrast + result.mean()).clamp(0, 1)
    if rng.random() < options.jpeg:
        result = through_jpeg(result, int(rng.integers(25, 90)))
    return result


def night(linear: Float[Tensor, "3 H W"], rng: np.random.Generator) -> Float[Tensor, "3 H W"]:
    """The scene under a dark sky and some warm lamps, exposed as a camera would at night."""
    _, height, width = linear.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    light = as_channels(SKY * rng.uniform(0.02, 0.15)) * torch.ones_like(linear)
    for _ in range(rng.integers(1, 4)):
        y, x = rng.uniform(-0.2, 1.2) * height, rng.uniform(-0.2, 1.2) * width
        reach = rng.uniform(0.2, 0.7) * max(height, width)
        falloff = 1 / (1 + ((rows - y) ** 2 + (columns - x) ** 2) / reach**2)
        tint = WARM ** rng.uniform(0.5, 1.2)
        light = light + as_channels(tint * rng.uniform(0.3, 1.0)) * falloff**2
    lit = linear * light
    exposed = rng.uniform(0.03, 0.12) / lit.mean().clamp(min=1e-4)
    return lit * exposed.clamp(max=8)


def blur(image: Float[Tensor, "3 H W"], sigma: float) -> Float[Tensor, "3 H W"]:
    """A Gaussian blur; below a fifth of a pixel there is none."""
    if sigma < 0.2:
        return image
    size = 2 * int(np.ceil(3 * sigma)) + 1
    return gaussian_blur2d(image[None], (size, size), (sigma, sigma))[0]


def add_noise(
    linear: Float[Tensor, "3 H W"], sigma: float, rng: np.random.Generator
) -> Float[Tensor, "3 H W"]:
    """A sensor's noise, of which the brighter parts have more: `sigma` at white."""
    if sigma == 0:
        return linear
    draws = torch.from_numpy(rng.standard_normal(tuple(linear.shape), dtype=np.float32))
    return linear + sigma * (0.05 + linear.clamp(0, 1)).sqrt() * draws


def through_jpeg(image: Float[Tensor, "3 H W"], quality: int) -> Float[Tensor, "3 H W"]:
    """A crop as JPEG keeps it at a quality from 1 to 95."""
    values = (image * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=quality)
    return to_tensor(Image.open(buffer))


def as_channels(values: np.ndarray | float) -> Float[Tensor, "3 1 1"]:
    """One number a channel, to multiply an image with."""
    return torch.from_numpy(np.broadcast_to(values, 3).astype(np.float32).copy()).view(3, 1, 1)
