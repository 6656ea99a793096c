"""Reprojection errors over the image plane: a pattern in them hints at distortion.

Places and residuals, the observed place less the projected one, are in pixels with y downwards.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from d2_hloc.files.colmap import camera_of, img_from_cam, pycolmap
from d2_hloc.reports.plot_style import ORANGE, bare, empty_figure

CELLS = 16  # along the longer edge
FEWEST = 5  # observations that a cell is told by
HEIGHT, BESIDE = 420, 60  # pixels


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """Residuals of the images of one size."""

    size: tuple[int, int]
    images: int
    xy: Float[np.ndarray, "N 2"]
    residuals: Float[np.ndarray, "N 2"]


@dataclass(frozen=True, kw_only=True)
class ResidualMap:
    """Medians over the cells of the image plane; NaN where a cell has too few observations."""

    x: Float[np.ndarray, " W"]  # middles of the cells
    y: Float[np.ndarray, " H"]
    errors: Float[np.ndarray, "H W"]
    residuals: Float[np.ndarray, "H W 2"]


def image_residuals(model: pycolmap.Reconstruction) -> Residuals | None:
    """Residuals of the images of the size that most observations are of; None of no observation."""
    found: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    counts: Counter[tuple[int, int]] = Counter()
    for image_id in model.reg_image_ids():
        image, camera = model.images[image_id], camera_of(model.images[image_id])
        seen = [p for p in image.points2D if p.has_point3D()]
        if seen:
            xy = np.array([p.xy for p in seen])
            xyz = np.array([model.points3D[p.point3D_id].xyz for p in seen])
            residuals = xy - img_from_cam(camera, np.asarray(image.cam_from_world() * xyz))
            sound = np.isfinite(residuals).all(axis=1)
            size = camera.width, camera.height
            found.setdefault(size, []).append((xy[sound], residuals[sound]))
            counts[size] += int(sound.sum())
    if not counts:
        return None
    size = counts.most_common(1)[0][0]
    xy, residuals = (np.concatenate(parts) for parts in zip(*found[size], strict=True))
    return Residuals(size=size, images=len(found[size]), xy=xy, residuals=residuals)


def residual_map(found: Residuals) -> ResidualMap:
    """Median error and median residual of each cell of the image plane, cells about square."""
    width, height = found.size
    edge = max(found.size) / CELLS
    columns, rows = max(1, round(width / edge)), max(1, round(height / edge))
    x = np.clip(found.xy[:, 0] * columns / width, 0, columns - 1).astype(int)
    y = np.clip(found.xy[:, 1] * rows / height, 0, rows - 1).astype(int)
    errors, residuals = np.full((rows, columns), np.nan), np.full((rows, columns, 2), np.nan)
    cells = y * columns + x
    for cell in np.flatnonzero(np.bincount(cells, minlength=rows * columns) >= FEWEST):
        inside = found.residuals[cells == cell]
        errors.flat[cell] = np.median(np.linalg.norm(inside, axis=1))
        residuals.reshape(-1, 2)[cell] = np.median(inside, axis=0)
    edges_x, edges_y = np.linspace(0, width, columns + 1), np.linspace(0, height, rows + 1)
    return ResidualMap(
        x=(edges_x[:-1] + edges_x[1:]) / 2,
        y=(edges_y[:-1] + edges_y[1:]) / 2,
        errors=errors,
        residuals=residuals,
    )


def residual_figure(found: ResidualMap, size: tuple[int, int]) -> tuple[go.Figure, float]:
    """Chart of the errors as colour and the residuals as strokes, and the longest residual, pixels.

    The longest stroke is as long as a cell.
    """
    lengths = np.linalg.norm(found.residuals, axis=2)
    if np.isnan(lengths).all():
        return empty_figure("There are too few observations to draw."), 0.0
    longest = float(np.nanmax(lengths))
    cells = go.Heatmap(
        x=found.x,
        y=found.y,
        z=found.errors,
        colorscale="Viridis",
        hovertemplate="x %{x:.0f}, y %{y:.0f}: median %{z:.3g} px<extra></extra>",
        hoverongaps=False,
        colorbar={"title": "median error, px", "thickness": 14},
    )
    figure = go.Figure([cells, _strokes(found, longest)])
    width, height = size
    figure.update_xaxes(range=[0, width], showgrid=False, constrain="domain")
    figure.update_yaxes(range=[height, 0], showgrid=False, scaleanchor="x", constrain="domain")
    figure.update_layout(height=HEIGHT + BESIDE, **bare())
    return figure, longest


def _strokes(found: ResidualMap, longest: float) -> go.Scatter:
    """Lines from the middles of cells along their residuals, a dot at the beginning of each."""
    step = (found.x[1] - found.x[0]) if len(found.x) > 1 else 2 * found.x[0]
    scale = step / max(longest, 1e-12)
    rows, columns = np.nonzero(np.isfinite(found.residuals).all(axis=2))
    starts = np.column_stack([found.x[columns], found.y[rows]])
    ends = starts + scale * found.residuals[rows, columns]
    lines = np.stack([starts, ends, np.full_like(starts, np.nan)], axis=1).reshape(-1, 2)
    return go.Scatter(
        x=lines[:, 0],
        y=lines[:, 1],
        mode="lines+markers",
        line={"color": ORANGE, "width": 2},
        marker={"size": [5, 0, 0] * len(starts), "color": ORANGE},
        hoverinfo="skip",
    )
