"""Views of a photograph: as if it hung on a wall, seen from elsewhere, in another light."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from d2_hloc.core.pixels import resize_matrix
from d2_hloc.core.ranges import EDGES, check_ranges
from d2_hloc.training.photographs import warp
from d2_hloc.training.photometric import PhotometricOptions, relight

ATTEMPTS = 20  # at a view with all of the photograph before the camera
NEAREST = 0.25  # of the distance of the photograph's middle, to any corner of it
FIRST_LIGHT = PhotometricOptions(
    night=0, exposure=0.4, contrast=0.15, colour=0.08, blur=0.5, noise=0.01, jpeg=0.3
)


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """How views differ. Angles, in degrees, and zoom, in octaves, are of normal distributions.

    Attributes:
        count: views of a photograph; the first is itself, hardly changed.
        edge: longest edges, pixels; each view draws one.
        yaw: standard deviation, degrees.
        pitch: standard deviation, degrees.
        roll: standard deviation, degrees.
        zoom: standard deviation, octaves.
        shift: largest shift, of the photograph's longer edge.
        photometric: how lights differ.
    """

    count: int = 4  # of a photograph; the first is itself, hardly changed
    edge: tuple[int, ...] = (400, 448, 512, 576)  # longest, in pixels; each view draws one
    yaw: float = 28.0
    pitch: float = 12.0
    roll: float = 9.0
    zoom: float = 0.45
    shift: float = 0.2  # of the photograph's longer edge, at most
    photometric: PhotometricOptions = field(default_factory=PhotometricOptions)

    def __post_init__(self) -> None:
        check_ranges(
            self,
            count=(2, 1000),  # pairs are of two views
            edge=(64, EDGES[1]),
            yaw=(0, 180),
            pitch=(0, 180),
            roll=(0, 180),
            zoom=(0, 10),
            shift=(0, 10),
        )
        if not self.edge:
            raise ValueError("edge must have a number of pixels.")


@dataclass(frozen=True, kw_only=True)
class PhotoView:
    """A view of a photograph: the homography that makes it, and its size."""

    view_from_photo: Float[np.ndarray, "3 3"]  # a homography of pixels
    size: tuple[int, int]  # of the view, (w, h)


def draw_view(
    photo_size: tuple[int, int], number: int, options: ViewOptions, rng: np.random.Generator
) -> PhotoView:
    """View `number` of a photograph."""
    edge = int(rng.choice(options.edge))
    scale = edge / max(photo_size)
    size = round(photo_size[0] * scale), round(photo_size[1] * scale)
    if number == 0:
        resized = resize_matrix(size[0] / photo_size[0], size[1] / photo_size[1])
        return PhotoView(view_from_photo=resized, size=size)
    for _ in range(ATTEMPTS):
        angles = np.deg2rad(rng.normal(0, 1, 3) * (options.yaw, options.pitch, options.roll))
        zoom = 2 ** np.clip(rng.normal(0.15, options.zoom), -1, 1.2)
        shift = rng.uniform(-options.shift, options.shift, 2)
        view = homography(photo_size, size, angles.clip(-1.1, 1.1), float(zoom), shift)
        if view is not None:
            return PhotoView(view_from_photo=view, size=size)
    return draw_view(photo_size, 0, options, rng)


def homography(
    photo_size: tuple[int, int],
    size: tuple[int, int],
    angles: Float[np.ndarray, 3],
    zoom: float,
    shift: Float[np.ndarray, 2],
) -> Float[np.ndarray, "3 3"] | None:
    """The photograph, turned by yaw, pitch and roll, before a camera; None if it is behind."""
    width, height = photo_size
    longest = max(photo_size)
    to_wall = np.array(
        [
            [1 / longest, 0, -(width - 1) / 2 / longest - shift[0]],
            [0, 1 / longest, -(height - 1) / 2 / longest - shift[1]],
            [0, 0, 1],
        ]
    )
    turned = rotation(angles)
    to_camera = np.c_[turned[:, 0], turned[:, 1], [0, 0, 1 / zoom]]
    focal = max(size)
    to_view = np.array([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1]])
    found = to_view @ to_camera @ to_wall
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]])
    if (corners @ found.T)[:, 2].min() < NEAREST / zoom:
        return None
    return found / found[2, 2]


def rotation(angles: Float[np.ndarray, 3]) -> Float[np.ndarray, "3 3"]:
    """Yaw about the vertical, then pitch about the horizontal, then roll; radians."""
    (cy, cp, cr), (sy, sp, sr) = np.cos(angles), np.sin(angles)
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return roll @ pitch @ yaw


def render_view(
    photo: Image.Image, pose: PhotoView, number: int, options: ViewOptions, rng: np.random.Generator
) -> Float[Tensor, "3 h w"]:
    """A view in its light."""
    light = FIRST_LIGHT if number == 0 else options.photometric
    return relight(warp(photo, pose.view_from_photo, pose.size).clamp(0, 1), light, rng)
