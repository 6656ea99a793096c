"""Draw matches and scores on photographs, to look at.

Coordinates are (x, y) with (0, 0) at the centre of the first pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from d2_hloc.core.images import ImageError, open_image
from d2_hloc.core.pixels import rescale

OUTLIER = (255, 50, 50, 150)
# Bright on a darkened photograph, and without the outliers' red.
YELLOW, GREEN, CYAN = (255, 225, 60), (80, 230, 90), (50, 220, 240)
BLUE, VIOLET, PINK = (95, 165, 255), (180, 135, 255), (255, 130, 225)
PALETTE = np.array([YELLOW, GREEN, CYAN, BLUE, VIOLET, PINK])
HEAT = np.array([(0, 0, 0), (150, 20, 60), (255, 140, 20), (255, 255, 230)])
HEAT_STOPS = (0, 1 / 3, 2 / 3, 1)
NIGHT = (16, 18, 22)  # behind a model's points
GAP, GAP_COLOUR = 6, (128, 128, 128)
DOT = 2  # radius in pixels
WIDEST = 3.0  # width over height, of one image
FINER = 2  # drawn so much larger and reduced, which softens the edges

Colour = tuple[int, int, int, int]


def draw_matches(
    image0: Image.Image,
    image1: Image.Image,
    xy0: np.ndarray | Sequence[Sequence[float]],
    xy1: np.ndarray | Sequence[Sequence[float]],
    inliers: np.ndarray | Sequence[bool] | None = None,
    max_lines: int = 200,
    height: int = 480,
) -> Image.Image:
    """Two images side by side and one line per match, at most `max_lines` of them, spread evenly.

    xy0 and xy1 are (K, 2), row by row the two ends of a match; `inliers` is a mask (K,), or None
    where nothing was verified. Inliers take their colour from their place in image 0, so that a
    line that leaves its neighbours stands out; outliers are faint and red, and lie below.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    xy0, xy1, inliers = _checked_matches(xy0, xy1, inliers)
    chosen = spread(len(xy0), max_lines)
    colours = [
        _place_colour(x, y) if inlier else OUTLIER
        for (x, y), inlier in zip(xy0[chosen] / image0.size, inliers[chosen], strict=True)
    ]
    left, right = _backdrop(image0, height), _backdrop(image1, height)
    canvas = _side_by_side(left, right)
    ends0 = rescale(xy0[chosen], _ratio(image0, left))
    ends1 = rescale(xy1[chosen], _ratio(image1, right)) + np.array([left.width + GAP, 0])
    order = np.argsort(inliers[chosen], kind="stable")
    return _with_overlay(
        canvas, lambda draw: _lines(draw, ends0[order], ends1[order], [colours[i] for i in order])
    )


def draw_scores(image: Image.Image, scores: np.ndarray, height: int = 480) -> Image.Image:
    """Image with the scores (h, w) of cells that cover it as light: the highest is white hot.

    Raises:
        ValueError: if they are not a map of finite numbers.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite and (h, w), not of shape {scores.shape}.")
    canvas = _backdrop(image, height).convert("L").point(lambda value: value * 0.6)
    shares = scores.clip(0) / max(float(scores.max(initial=0)), 1e-12)
    heat = np.stack([np.interp(shares, HEAT_STOPS, channel) for channel in HEAT.T], axis=2)
    layer = Image.fromarray(heat.round().astype(np.uint8))
    layer = layer.resize(canvas.size, Image.Resampling.NEAREST)
    return ImageChops.lighter(canvas.convert("RGB"), layer)


def draw_keypoints(
    image: Image.Image, xy: np.ndarray, colours: Sequence[Colour], height: int = 480
) -> Image.Image:
    """Image with a dot for each keypoint (N, 2), in its colour; later ones lie above.

    Raises:
        ValueError: if there are not as many colours as keypoints.
    """
    xy = _points(xy, "xy")
    if len(colours) != len(xy):
        raise ValueError(f"{len(xy)} keypoints and {len(colours)} colours do not fit together.")
    canvas = _backdrop(image, height)
    places = rescale(xy, _ratio(image, canvas))
    return _with_overlay(canvas, lambda draw: _dots(draw, places, colours))


def draw_seen_points(
    size: tuple[int, int], xy: np.ndarray, rgb: np.ndarray, depths: np.ndarray, height: int = 480
) -> Image.Image:
    """Picture of points as a camera sees them, the near ones above those behind them.

    Args:
        size: width and height of the camera's image, pixels.
        xy: places (N, 2) of the points in it; those beyond it are left out.
        rgb: their colours (N, 3), 0 to 255.
        depths: (N,); those behind the camera, or not finite, are left out.
        height: of the picture, pixels.
    """
    canvas = Image.new("RGB", _fitted(size, height), NIGHT)
    with np.errstate(invalid="ignore"):
        is_seen = (depths > 0) & (xy > -1).all(axis=1) & (xy < size).all(axis=1)
    seen = np.flatnonzero(is_seen)
    order = seen[np.argsort(-depths[seen], kind="stable")]
    places = rescale(xy[order], np.array(canvas.size) / size)
    colours = [(red, green, blue, 255) for red, green, blue in rgb[order].astype(int).tolist()]
    return _with_overlay(canvas, lambda draw: _dots(draw, places, colours))


def beside(left: Image.Image, right: Image.Image, height: int = 480) -> Image.Image:
    """Two images side by side, both at that height in pixels."""
    sizes = (_fitted(image.size, height) for image in (left, right))
    resized = (
        image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        for image, size in zip((left, right), sizes, strict=True)
    )
    return _side_by_side(*resized)


def open_or_blank(path: Path) -> Image.Image:
    """The photograph, or grey where it was moved away since: a report is drawn all the same."""
    try:
        return open_image(path)
    except ImageError:
        return Image.new("RGB", (640, 480), (128, 128, 128))


def spread(count: int, limit: int) -> np.ndarray:
    """Indices of at most `limit` of `count` things, evenly spread and the same every time."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(int)


def _checked_matches(
    xy0: np.ndarray | Sequence[Sequence[float]],
    xy1: np.ndarray | Sequence[Sequence[float]],
    inliers: np.ndarray | Sequence[bool] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    xy0, xy1 = _points(xy0, "xy0"), _points(xy1, "xy1")
    inliers = np.ones(len(xy0), bool) if inliers is None else np.asarray(inliers, dtype=bool)
    if len(xy0) != len(xy1) or inliers.shape != (len(xy0),):
        raise ValueError(
            f"{len(xy0)} points of image 0, {len(xy1)} points of image 1 and a mask of shape "
            f"{inliers.shape} do not fit together."
        )
    return xy0, xy1, inliers


def _points(xy: np.ndarray | Sequence[Sequence[float]], name: str) -> np.ndarray:
    xy = np.asarray(xy, dtype=float)
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise ValueError(f"{name} must have the shape (K, 2), not {xy.shape}.")
    if not np.isfinite(xy).all():
        raise ValueError(f"{name} holds {(~np.isfinite(xy)).any(axis=1).sum()} points not finite.")
    return xy


def _backdrop(image: Image.Image, height: int) -> Image.Image:
    """Image at the drawing's size, paler and darker than it is: the lines have the colour."""
    colour = image.convert("RGB").resize(_fitted(image.size, height), Image.Resampling.LANCZOS)
    pale = Image.blend(colour.convert("L").convert("RGB"), colour, 0.45)
    return pale.point(lambda value: value * 0.8)


def _fitted(size: tuple[int, int], height: int) -> tuple[int, int]:
    """Size (w, h) of an image at a height; very wide ones are less high."""
    scale = min(height / size[1], WIDEST * height / size[0])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _ratio(image: Image.Image, resized: Image.Image) -> np.ndarray:
    return np.array(resized.size) / image.size


def _side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    size = left.width + GAP + right.width, max(left.height, right.height)
    canvas = Image.new("RGB", size, GAP_COLOUR)
    canvas.paste(left, (0, 0))
    canvas.paste(right, (left.width + GAP, 0))
    return canvas


def _place_colour(x: float, y: float) -> Colour:
    """A colour for a place in the unit square: the palette along x, darker along y."""
    stops = np.linspace(0, 1, len(PALETTE))
    shade = 1 - 0.2 * float(np.clip(y, 0, 1))
    red, green, blue = (round(shade * np.interp(x, stops, channel)) for channel in PALETTE.T)
    return red, green, blue, 255


def _with_overlay(canvas: Image.Image, paint: Callable[[ImageDraw.ImageDraw], None]) -> Image.Image:
    """Paint on a finer transparent sheet, reduce it and lay it over the canvas."""
    sheet = Image.new("RGBA", (canvas.width * FINER, canvas.height * FINER))
    paint(ImageDraw.Draw(sheet))
    sheet = sheet.resize(canvas.size, Image.Resampling.BOX)
    return Image.alpha_composite(canvas.convert("RGBA"), sheet).convert("RGB")


def _finer(xy: np.ndarray) -> np.ndarray:
    return rescale(xy, FINER).round().astype(int)


def _lines(
    draw: ImageDraw.ImageDraw, ends0: np.ndarray, ends1: np.ndarray, colours: Sequence[Colour]
) -> None:
    for start, end, colour in zip(_finer(ends0), _finer(ends1), colours, strict=True):
        draw.line((*start, *end), fill=(*colour[:3], min(colour[3], 200)), width=FINER)
    _dots(draw, ends0, colours)
    _dots(draw, ends1, colours)


def _dots(draw: ImageDraw.ImageDraw, places: np.ndarray, colours: Sequence[Colour]) -> None:
    radius = DOT * FINER
    for (x, y), colour in zip(_finer(places), colours, strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
