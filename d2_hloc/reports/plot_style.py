"""The look that all plotly figures of a report share, and text that plotly shows as it stands.

Backgrounds are transparent and text has no colour of its own, so that a page can be light or dark.
"""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go

# Apart from each other for the colour-blind, and from white and black pages alike.
BLUE, ORANGE = "#3b8bd0", "#e0651b"


def plain_text(text: object) -> str:
    """Escape text, since plotly reads tags in it; it knows a few entities, but none of quotes."""
    return escape(str(text), quote=False)


def transparent() -> dict[str, str]:
    """Layout of a figure that shows the page behind it."""
    return {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}


def bare() -> dict[str, Any]:
    """Layout of a chart without a legend and with narrow margins, which the mouse cannot move."""
    margin = {"l": 10, "r": 20, "t": 10, "b": 10}
    return {"showlegend": False, "margin": margin, "dragmode": False, **transparent()}


def empty_figure(text: str) -> go.Figure:
    """A figure that says why there is nothing in it."""
    figure = go.Figure()
    figure.add_annotation(text=text, x=0, y=0, showarrow=False, font_size=15)
    figure.update_xaxes(visible=False, range=[-1, 1])
    figure.update_yaxes(visible=False, range=[-1, 1])
    figure.update_layout(height=160, **bare())
    return figure
