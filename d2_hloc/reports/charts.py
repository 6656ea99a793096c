"""Plotly charts of a run: bars per image and per stage, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from d2_hloc.reports.plot_style import BLUE, bare, empty_figure, plain_text

MAX_BARS = 40  # more have no room for their names
STEPS = 60  # of a histogram
MATRIX_HEIGHT = 620  # pixels
BAR_HEIGHT, BARS_MARGIN = 26, 70  # pixels
MAX_NAME = 26  # letters


def bar_figure(
    names: Sequence[str], values: Sequence[float] | np.ndarray, heading: str
) -> go.Figure:
    """Chart of one bar per name, in the order given; `heading` says what the values are.

    Above 40 names the bars stand sorted and unnamed, and the pointer shows whose each one is.

    Raises:
        ValueError: if there are not as many names as values.
    """
    if len(names) != len(values):
        raise ValueError(f"{len(names)} names and {len(values)} values do not fit together.")
    if len(names) == 0:
        return empty_figure("There is nothing to draw.")
    texts = [f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}" for value in values]
    if len(names) <= MAX_BARS:
        return _named_bars(names, values, texts, heading)
    order = np.argsort(-np.asarray(values, dtype=float), kind="stable")
    bars = go.Bar(
        x=np.arange(1, len(order) + 1),
        y=np.asarray(values)[order],
        hovertext=[f"{plain_text(names[i])}: {texts[i]}" for i in order],
        hoverinfo="text",
        marker={"color": BLUE, "line": {"width": 0}},
    )
    figure = go.Figure(bars)
    figure.update_layout(
        height=360, bargap=0, xaxis_title="rank", yaxis_title=plain_text(heading), **bare()
    )
    figure.update_yaxes(tickformat=",")
    return figure


def timings_figure(seconds: Mapping[str, float]) -> go.Figure:
    """Chart of one bar per stage of a run, in the order given; seconds."""
    if not seconds:
        return empty_figure("There is nothing to draw.")
    texts = [duration(value) for value in seconds.values()]
    return _named_bars(list(seconds), list(seconds.values()), texts, "seconds")


def curves_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_title: str, y_title: str
) -> go.Figure:
    """Chart of one line per name through its (x, y); values that are not finite leave a gap."""
    if not any(len(x) for x, _ in curves.values()):
        return empty_figure("There is nothing to draw.")
    figure = go.Figure()
    for name, (x, y) in curves.items():
        values = [float(v) if np.isfinite(v) else None for v in y]
        mode = "lines" if len(values) > MAX_BARS else "lines+markers"
        figure.add_trace(go.Scatter(x=list(x), y=values, mode=mode, name=plain_text(name)))
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    figure.update_layout(
        height=360, xaxis_title=plain_text(x_title), yaxis_title=plain_text(y_title)
    )
    figure.update_layout(**bare() | {"showlegend": len(curves) > 1, "legend": legend})
    return figure


def histogram_figure(values: np.ndarray, heading: str) -> go.Figure:
    """Chart of how many of the values (N,), none negative, lie in each of 60 equal steps.

    The steps go from 0 to the 99th percentile; the last one holds all that are larger as well.
    """
    if not len(values):
        return empty_figure("There is nothing to draw.")
    highest = max(float(np.percentile(values, 99)), 1e-9)
    counts, edges = np.histogram(np.clip(values, 0, highest), STEPS, (0, highest))
    upper = [*(f"{edge:.3g}" for edge in edges[1:-1]), "more"]
    bars = go.Bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=highest / STEPS,
        hovertext=[
            f"{low:.3g} to {high}: {count:,}"
            for low, high, count in zip(edges[:-1], upper, counts, strict=True)
        ],
        hoverinfo="text",
        marker={"color": BLUE, "line": {"width": 0}},
    )
    figure = go.Figure(bars)
    figure.update_layout(height=300, bargap=0, xaxis_title=plain_text(heading), **bare())
    figure.update_yaxes(tickformat=",")
    return figure


def matrix_figure(names: Sequence[str], values: np.ndarray, heading: str) -> go.Figure:
    """Chart of a number for each pair of names (N, N), as colour; zero is left out.

    The pointer shows which pair it is of. Above 40 names the axes have none.
    """
    if not np.any(values):
        return empty_figure("There is nothing to draw.")
    labels = [plain_text(name) for name in names]
    cells = go.Heatmap(
        x=labels,
        y=labels,
        z=np.where(values == 0, np.nan, values),
        hoverinfo="x+y+z",
        hoverongaps=False,
        colorscale="Viridis",
        colorbar={"title": plain_text(heading), "thickness": 14},
    )
    figure = go.Figure(cells)
    has_names = len(names) <= MAX_BARS
    places = {
        "type": "category",
        "showticklabels": has_names,
        "ticks": "outside" if has_names else "",
        "showgrid": False,
        "constrain": "domain",
    }
    shown = [_short(name) for name in names] if has_names else None
    figure.update_xaxes(tickvals=labels, ticktext=shown, **places)
    figure.update_yaxes(
        tickvals=labels, ticktext=shown, autorange="reversed", scaleanchor="x", **places
    )
    figure.update_layout(height=MATRIX_HEIGHT, **bare())
    return figure


def duration(seconds: float) -> str:
    """Time in words: 85 ms, 12.3 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _named_bars(
    names: Sequence[str], values: Sequence[float] | np.ndarray, texts: Sequence[str], heading: str
) -> go.Figure:
    places = np.arange(len(names))
    bars = go.Bar(
        x=np.asarray(values, dtype=float),
        y=places,
        orientation="h",
        text=list(texts),
        textposition="outside",
        cliponaxis=False,
        hovertext=[f"{plain_text(name)}: {text}" for name, text in zip(names, texts, strict=True)],
        hoverinfo="text",
        marker={"color": BLUE, "line": {"width": 0}},
    )
    figure = go.Figure(bars)
    figure.update_yaxes(
        tickvals=places, ticktext=[_short(str(name)) for name in names], autorange="reversed"
    )
    longest = max(float(np.max(np.nan_to_num(np.asarray(values, dtype=float)))), 1e-9)
    figure.update_xaxes(title=plain_text(heading), range=[0, longest], tickformat=",", nticks=5)
    figure.update_layout(height=BAR_HEIGHT * len(names) + BARS_MARGIN, bargap=0.35, **bare())
    figure.update_layout(margin_r=80)  # room for the longest bar's value
    return figure


def _short(name: str) -> str:
    """End of a long name, which tells images apart."""
    return plain_text(name if len(name) <= MAX_NAME else "…" + name[1 - MAX_NAME :])
