"""The 3D figure of a model: its points and its cameras, to turn with the mouse."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import plotly.graph_objects as go

from d2_hloc.reports.drawing import spread
from d2_hloc.reports.plot_style import BLUE, ORANGE, empty_figure, plain_text, transparent

NEAR = (2.0, 98.0)  # percentiles of the points that count as the scene
REACH = 0.75  # how far around those, in their extent, points are still drawn
FRUSTUM = (0.02, 0.06)  # least and greatest depth of a drawn camera, in the scene's diagonal
# Right, up and towards the viewer, in the upright world: x right, y away, z up.
VIEW = np.array([[0.98, 0.2, 0.0], [-0.05, 0.26, 0.96], [0.19, -0.94, 0.27]])
SLOPE, ASPECT = 0.35, 1.8  # half the view's height at distance 1, with a rim; width over height
# A camera's outline in its own frame, x right, y down, z forward; the last two strokes make a roof,
# which says where up is. Rows of NaN lift the pen.
TIP, GAP = (0, 0, 0), (np.nan, np.nan, np.nan)
CORNERS = (-0.6, -0.45, 1), (0.6, -0.45, 1), (0.6, 0.45, 1), (-0.6, 0.45, 1)
ROOF = (CORNERS[0], (0, -0.8, 1), CORNERS[1])
OUTLINE = np.array(
    [*CORNERS, CORNERS[0], TIP, CORNERS[1], GAP, CORNERS[2], TIP, CORNERS[3], GAP, *ROOF, GAP]
)


def model_figure(
    xyz: np.ndarray,
    rgb: np.ndarray,
    centres: np.ndarray,
    rotations: np.ndarray,
    names: Sequence[str],
    highlight: Collection[str] = (),
    *,
    max_points: int = 20_000,
) -> go.Figure:
    """Figure of a model to turn, seen from behind its cameras and upright.

    xyz are the points (N, 3) and rgb their colours (N, 3) in 0..255; centres (M, 3), rotations
    (M, 3, 3, world to camera) and names are the cameras'. Those named in `highlight`, localized
    queries, have another colour. Points far from all others are left out, and more than
    `max_points` are thinned, the same every time.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    xyz, rgb = _checked(xyz, (3,), "xyz"), _checked(rgb, (3,), "rgb")
    centres = _checked(centres, (3,), "centres")
    rotations = _checked(rotations, (3, 3), "rotations")
    if len(xyz) != len(rgb) or not len(centres) == len(rotations) == len(names):
        raise ValueError(
            f"{len(xyz)} points and {len(rgb)} colours, {len(centres)} centres, {len(rotations)} "
            f"rotations and {len(names)} names do not fit together."
        )
    near = _near_points(xyz)
    if not len(near) and not len(centres):
        return empty_figure("The model is empty.")
    upright = _upright(rotations)
    xyz, centres, rotations = xyz @ upright.T, centres @ upright.T, rotations @ upright.T
    low, high = _box(np.concatenate([xyz[near], centres]))
    depth = _frustum_depth(centres, float(np.linalg.norm(high - low)))
    low, high = low - 1.5 * depth, high + 1.5 * depth  # what reaches out of the box is not drawn
    figure = go.Figure(layout=_scene_layout(low, high, _viewpoint(xyz[near], centres, low, high)))
    if len(near):
        drawn = near[spread(len(near), max_points)]
        figure.add_trace(_points_trace(xyz[drawn], rgb[drawn], len(xyz)))
    is_marked = np.array([name in highlight for name in names], dtype=bool)
    for mask, label, colour in (
        (~is_marked, "cameras", BLUE),
        (is_marked, "queries", ORANGE),
    ):
        if mask.any():
            chosen = [name for name, keep in zip(names, mask, strict=True) if keep]
            figure.add_trace(_outlines_trace(centres[mask], rotations[mask], depth, label, colour))
            figure.add_trace(_centres_trace(centres[mask], chosen, label, colour))
    return figure


def _checked(values: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.shape[1:] != shape:
        raise ValueError(f"{name} must have the shape (N, {str(shape)[1:]}, not {values.shape}.")
    return values


def _upright(rotations: np.ndarray) -> np.ndarray:
    """Rotation of the world to x right, y away from the viewer, z up, as the cameras look on
    average; as the first one does where they cancel out, as around a statue."""
    if not len(rotations):
        rotations = np.eye(3)[None]
    down = _mean_direction(rotations[:, 1])
    forward = rotations[:, 2] - np.outer(rotations[:, 2] @ down, down)
    forward = _mean_direction(forward[np.linalg.norm(forward, axis=1) > 1e-6])
    right = np.cross(down, forward)
    return np.stack([right, forward, -down])


def _mean_direction(directions: np.ndarray) -> np.ndarray:
    mean = directions.mean(axis=0)
    if np.linalg.norm(mean) < 0.2:
        mean = directions[0]
    return mean / np.linalg.norm(mean)


def _near_points(xyz: np.ndarray) -> np.ndarray:
    """Indices of the points in or around the scene: a few far ones would make it a speck."""
    finite = np.flatnonzero(np.isfinite(xyz).all(axis=1))
    if not len(finite):
        return finite
    low, high = np.percentile(xyz[finite], NEAR, axis=0)
    margin = REACH * (high - low) + 1e-9
    inside = (xyz[finite] >= low - margin) & (xyz[finite] <= high + margin)
    return finite[inside.all(axis=1)]


def _box(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two corners of a box around everything, no side of it much thinner than the others."""
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    thinnest = 0.1 * max(float((high - low).max()), 1e-6)
    half = np.maximum(high - low, thinnest) * 0.54
    return (low + high) / 2 - half, (low + high) / 2 + half


def _points_trace(xyz: np.ndarray, rgb: np.ndarray, total: int) -> go.Scatter3d:
    # Neither white nor black, so that every point shows on both kinds of page.
    shades = (rgb * 0.64 + 56).round().astype(int)
    some = f"{total:,}" if len(xyz) == total else f"{len(xyz):,} of {total:,}"
    x, y, z = xyz.T.astype(np.float32)
    return go.Scatter3d(
        x=x,
        y=y,
        z=z,
        mode="markers",
        name=f"points ({some})",
        hoverinfo="skip",
        marker={
            "size": 2.4 if len(xyz) < 5000 else 1.6,
            "color": [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in shades],
            "line": {"width": 0},
        },
    )


def _frustum_depth(centres: np.ndarray, diagonal: float) -> float:
    """A size at which cameras can be seen and do not hide each other."""
    least, greatest = (share * diagonal for share in FRUSTUM)
    if len(centres) < 2:
        return greatest
    some = centres[spread(len(centres), 300)]
    distances = np.linalg.norm(some[:, None] - some[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return float(np.clip(np.median(distances.min(axis=1)) / 2, least, greatest))


def _outlines_trace(
    centres: np.ndarray, rotations: np.ndarray, depth: float, label: str, colour: str
) -> go.Scatter3d:
    strokes = depth * OUTLINE @ rotations + centres[:, None]
    x, y, z = strokes.reshape(-1, 3).T.astype(np.float32)
    return go.Scatter3d(
        x=x,
        y=y,
        z=z,
        mode="lines",
        line={"color": colour, "width": 2.5},
        hoverinfo="skip",
        legendgroup=label,
        showlegend=False,
    )


def _centres_trace(
    centres: np.ndarray, names: Sequence[str], label: str, colour: str
) -> go.Scatter3d:
    x, y, z = centres.T.astype(np.float32)
    return go.Scatter3d(
        x=x,
        y=y,
        z=z,
        mode="markers",
        marker={"color": colour, "size": 3.5, "line": {"width": 0}},
        name=f"{label} ({len(centres):,})",
        legendgroup=label,
        hovertext=[plain_text(name) for name in names],
        hoverinfo="text",
    )


def _scene_layout(low: np.ndarray, high: np.ndarray, camera: dict[str, object]) -> dict:
    """Layout without axes, since a model's scale and origin are arbitrary; sides in proportion."""
    axes = {
        f"{axis}axis": {"visible": False, "range": [float(a), float(b)]}
        for axis, a, b in zip("xyz", low, high, strict=True)
    }
    scene = {"aspectmode": "data", "dragmode": "turntable", "camera": camera, **axes}
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "itemsizing": "constant"}
    margin = {"l": 0, "r": 0, "t": 30, "b": 0}
    return {"scene": scene, "legend": legend, "margin": margin, "height": 560, **transparent()}


def _viewpoint(
    xyz: np.ndarray, centres: np.ndarray, low: np.ndarray, high: np.ndarray
) -> dict[str, object]:
    """Viewpoint behind the cameras, a little to the right and above, and so far off that
    nearly all points and cameras are in the picture."""
    unit = np.prod(high - low) ** (1 / 3)  # plotly scales the box to a volume of one
    groups = [(group - (low + high) / 2) / unit for group in (xyz, centres) if len(group)]
    core = np.concatenate([np.percentile(group, NEAR, axis=0) for group in groups])
    target = (core.min(axis=0) + core.max(axis=0)) / 2
    distance = 0.1
    for group in groups:
        right, up, near = VIEW @ (group - target).T
        needed = near + np.maximum(np.abs(right) / ASPECT, np.abs(up)) / SLOPE
        distance = max(distance, float(np.percentile(needed, NEAR[1])))
    eye = target + VIEW[2] * distance
    named = {"eye": eye, "center": target, "up": np.array([0.0, 0.0, 1.0])}
    return {name: dict(zip("xyz", v.tolist(), strict=True)) for name, v in named.items()}
