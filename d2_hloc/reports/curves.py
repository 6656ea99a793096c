"""Plots to print and to publish, by matplotlib: the curves of matching accuracy."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from d2_hloc.files.atomic import write_atomically

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
GREY = "#8a8a8a"
STYLES = ("-", "--", ":", "-.")  # of the grey lines
FONT_SIZE = 9


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve from the first threshold on, in steps of one."""

    label: str
    values: Sequence[float]
    is_grey: bool = False  # of others, to compare with


def accuracy_figure(panels: Mapping[str, Sequence[Line]]) -> Figure:
    """Plot of matching accuracy over the threshold in pixels, one panel per part of the data set.

    A label has one colour in all panels, and stands once in the legend.
    """
    styles = _styles(panels)
    figure = Figure(figsize=(3.1 * len(panels), 3.3), layout="constrained")
    handles = {}
    for axes, (title, lines) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for line in lines:
            thresholds = range(1, len(line.values) + 1)
            handles[line.label] = axes.plot(thresholds, line.values, **styles[line.label])[0]
        last = max((len(line.values) for line in lines), default=2)
        axes.set(title=title, xlim=(1, last), ylim=(0, 1), xticks=range(1, last + 1))
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.set_xlabel("threshold, pixels", fontsize=FONT_SIZE)
        axes.tick_params(labelsize=FONT_SIZE)
        axes.grid(color="#d8d8d8", linewidth=0.6)
    figure.axes[0].set_ylabel("mean matching accuracy", fontsize=FONT_SIZE)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(4, len(handles) or 1),
        fontsize=FONT_SIZE,
        frameon=False,
    )
    return figure


def _styles(panels: Mapping[str, Sequence[Line]]) -> dict[str, dict[str, object]]:
    """Styles of the lines by label: the first ones in colour, grey ones below."""
    lines = {line.label: line for some in panels.values() for line in some}
    coloured = [label for label, line in lines.items() if not line.is_grey]
    grey = [label for label, line in lines.items() if line.is_grey]
    styles: dict[str, dict[str, object]] = {}
    for k, label in enumerate(coloured):
        styles[label] = {"color": COLOURS[k % len(COLOURS)], "linewidth": 2.2, "zorder": 3}
    for k, label in enumerate(grey):
        style = STYLES[k % len(STYLES)]
        styles[label] = {"color": GREY, "linewidth": 1.3, "linestyle": style, "zorder": 2}
    return styles


def write_figure(figure: Figure, *paths: Path) -> None:
    """Write a figure in the format of each path's suffix, whole or not at all, and the same every
    time: without the date, and with names that do not change."""
    with matplotlib.rc_context({"svg.hashsalt": "d2_hloc", "svg.fonttype": "path"}):
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else {}
            buffer = io.BytesIO()
            figure.savefig(buffer, format=path.suffix[1:], dpi=160, metadata=metadata)
            write_atomically(path, buffer.getvalue())
