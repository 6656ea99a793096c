"""A report: one page of numbers, pictures and figures that opens anywhere, without a network.

    report = Report("Reconstruction", "Fountain, 11 images")
    report.headline([("registered images", "11 of 11"), ("points", 14158)])
    report.table("Numbers", [{"metric": "mean track length", "value": 4.76}])
    report.write(Path("report.html"))

All text is data: it is escaped, and the page may load nothing from outside (its content security
policy says so to the browser).
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.offline import get_plotlyjs

from d2_hloc.files.atomic import write_atomically

MAX_PICTURE = 1600  # pixels, the longer side
JPEG_QUALITY = 88
WIDE = 1.8  # pictures of this width over height have a row of their own
MIN_CONTENTS = 5  # sections; fewer need no table of contents
MAX_DIGITS = 6  # in a column of one precision
MISSING = "–"  # noqa: RUF001 - a dash, as printed tables have
NUMERIC = re.compile(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?( ?%)?")

Row = Mapping[str, Any] | Sequence[Any]


class Report:
    """A page in the making. Sections stand in the order in which they were added.

    A heading equal to the one before goes on in its section, so that a table and a figure can
    share one.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self._headline: list[str] = []
        self._sections: list[tuple[str, list[str]]] = []
        self._has_figures = False

    def headline(self, numbers: Iterable[tuple[str, Any]]) -> None:
        """The few numbers that matter, (label, value), as cards on top."""
        self._headline += [
            f"<div><dt>{escape(label)}</dt><dd>{escape(format_value(value))}</dd></div>"
            for label, value in numbers
        ]

    def text(self, heading: str, text: str) -> None:
        """Paragraphs, apart by an empty line."""
        paragraphs = [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]
        self._add(heading, "".join(f"<p>{escape(p)}</p>" for p in paragraphs), None)

    def listing(self, heading: str, text: str) -> None:
        """Text as it stands, such as a configuration, folded away until it is asked for."""
        body = f"<details><summary>Show</summary><pre>{escape(text)}</pre></details>"
        self._add(heading, body, None)

    def table(
        self,
        heading: str,
        rows: Iterable[Row],
        columns: Sequence[str] | None = None,
        note: str | None = None,
    ) -> None:
        """Rows that are dictionaries, or sequences in the order of `columns`.

        Without `columns`, dictionaries give all their keys, and sequences stand without a header.

        Raises:
            ValueError: if a row's length is not that of the others or of `columns`.
        """
        rows = list(rows)
        if columns is None and rows and isinstance(rows[0], Mapping):
            columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [_cells(row, columns) for row in rows]
        width = len(columns) if columns is not None else len(cells[0]) if cells else 0
        for number, row in enumerate(cells):
            if len(row) != width:
                raise ValueError(f"row {number} has {len(row)} cells instead of {width}: {row}.")
        self._add(heading, _table(cells, columns), note)

    def figure(self, heading: str, figure: go.Figure, note: str | None = None) -> None:
        """A plotly figure; it takes the colours and the width of the page."""
        # The browser reads this as JSON only if no "<" can end the element that holds it.
        source = figure.to_json().replace("<", "\\u003c")
        height = figure.layout.height or 440
        kind = "plot scene" if any("3d" in trace.type for trace in figure.data) else "plot"
        self._add(
            heading,
            f'<div class="{kind}" style="--height:{height:.0f}px" role="img" '
            f'aria-label="{escape(heading)}">'
            f'<script type="application/json">{source}</script></div>',
            note,
        )
        self._has_figures = True

    def picture(
        self,
        heading: str,
        pictures: Image.Image | Sequence[tuple[Image.Image, str]],
        note: str | None = None,
    ) -> None:
        """An image, or several with captions; large ones are reduced to 1600 pixels."""
        if isinstance(pictures, Image.Image):
            pictures = [(pictures, "")]
        body = "".join(_picture(image, caption) for image, caption in pictures)
        self._add(heading, f'<div class="pictures">{body}</div>', note)

    def html(self) -> str:
        """The whole page."""
        headline = f'<dl class="cards">{"".join(self._headline)}</dl>' if self._headline else ""
        subtitle = f'<p class="subtitle">{escape(self.subtitle)}</p>' if self.subtitle else ""
        contents = self._contents()
        scripts = f"<script>{get_plotlyjs()}</script>{SCRIPT}" if self._has_figures else ""
        return (
            f'<!doctype html>\n<html lang="en">\n<head>\n{HEAD}'
            f"<title>{escape(self.title)}</title>\n{STYLE}</head>\n"
            f"<body{' class=has-contents' if contents else ''}>\n"
            f"<header><h1>{escape(self.title)}</h1>{subtitle}{headline}</header>\n{contents}"
            f"<main>\n{self._body()}</main>\n{scripts}</body>\n</html>\n"
        )

    def write(self, path: Path) -> Path:
        """Write the page, whole or not at all; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.html().encode("utf-8", "replace"))
        return path

    def _add(self, heading: str, body: str, note: str | None) -> None:
        if not self._sections or self._sections[-1][0] != heading:
            self._sections.append((heading, []))
        about = f'<p class="note">{escape(note)}</p>' if note else ""
        self._sections[-1][1].append(f'<div class="item">{about}{body}</div>')

    def _body(self) -> str:
        return "".join(
            f'<section id="s{number}"><h2>{escape(heading)}</h2>{"".join(items)}</section>\n'
            for number, (heading, items) in enumerate(self._sections, start=1)
        )

    def _contents(self) -> str:
        if len(self._sections) < MIN_CONTENTS:
            return ""
        links = "".join(
            f'<li><a href="#s{number}">{escape(heading)}</a></li>'
            for number, (heading, _) in enumerate(self._sections, start=1)
        )
        return f'<nav aria-label="Contents"><ol>{links}</ol></nav>\n'


def format_value(value: Any) -> str:
    """A value alone: 14158 as 14,158, 0.23061 as 0.231, True as yes, None and NaN as a dash."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _format_float(value)
    return str(value)


def format_column(values: Sequence[Any]) -> list[str]:
    """Values below each other: numbers of one kind get the same number of decimals."""
    values = [v.item() if isinstance(v, np.generic) else v for v in values]
    known = [v for v in values if v is not None]
    decimals = None
    if known and all(isinstance(v, float) for v in known):
        decimals = _decimals([v for v in known if math.isfinite(v)])
    if decimals is None:
        return [format_value(v) for v in values]
    return [
        f"{v:,.{decimals}f}" if v is not None and math.isfinite(v) else format_value(v)
        for v in values
    ]


def _format_float(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value and abs(value) < 1e-4:
        return f"{value:.2e}"
    decimals = max(0, 2 - _magnitude(value)) if value else 0
    while decimals and round(value, decimals - 1) == value:
        decimals -= 1
    return f"{value:,.{decimals}f}"


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _decimals(values: Sequence[float]) -> int | None:
    """Decimals that show three digits of the largest and two of the smallest; None if too many."""
    sizes = [_magnitude(v) for v in values if v]
    if not sizes:
        return 0
    decimals = max(0, 2 - max(sizes), 1 - min(sizes))
    while decimals and all(round(v, decimals - 1) == round(v, decimals) for v in values):
        decimals -= 1
    return decimals if max(0, max(sizes)) + 1 + decimals <= MAX_DIGITS else None


def _cells(row: Row, columns: Sequence[str] | None) -> list[Any]:
    if isinstance(row, Mapping):
        return [row.get(column) for column in columns or row]
    return list(row)


def _table(cells: Sequence[Sequence[Any]], columns: Sequence[str] | None) -> str:
    if not cells:
        return '<p class="note">There are no rows.</p>'
    texts = [format_column(column) for column in zip(*cells, strict=True)]
    kinds = [' class="number"' if _is_numeric(column) else "" for column in texts]
    head = ""
    if columns is not None:
        names = zip(columns, kinds, strict=True)
        row = "".join(f"<th{kind}>{escape(str(name))}</th>" for name, kind in names)
        head = f"<thead><tr>{row}</tr></thead>"
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{escape(text)}</td>" for text, kind in zip(row, kinds, strict=True))
        + "</tr>\n"
        for row in zip(*texts, strict=True)
    )
    # Long tables scroll, and what scrolls must be reachable with the keyboard.
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>{body}</tbody></table></div>'


def _is_numeric(texts: Sequence[str]) -> bool:
    """Most of a column reads as numbers: then it is aligned to the right."""
    known = [text for text in texts if text not in (MISSING, "-", "")]
    return 2 * sum(bool(NUMERIC.fullmatch(text)) for text in known) > len(known)


def _picture(image: Image.Image, caption: str) -> str:
    image = image.convert("RGB")
    image.thumbnail((MAX_PICTURE, MAX_PICTURE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Thin coloured lines need their colour at full resolution.
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    kind = ' class="wide"' if image.width >= WIDE * image.height else ""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure{kind}><img src="data:image/jpeg;base64,{data}" alt="{escape(caption)}" '
        f'width="{image.width}" height="{image.height}">{below}</figure>'
    )


# The page's own scripts run; nothing is fetched. Plotly draws through blob and data addresses.
HEAD = """<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';
 style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none';
 form-action 'none'">
<link rel="icon" href="data:,">
"""

STYLE = """<style>
:root {
  --page: #f6f7f9; --panel: #ffffff; --ink: #1a1f26; --soft: #5a6573; --line: #e1e5ea;
  --accent: #0b62b0; --shadow: 0 1px 2px rgb(16 24 40 / 6%), 0 4px 16px rgb(16 24 40 / 5%);
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #0e1116; --panel: #171b22; --ink: #e6e9ee; --soft: #98a3b1; --line: #2a313b;
    --accent: #71b3f3; --shadow: none;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; }
body {
  margin: 0 auto; max-width: 74rem; padding: 2.5rem 1.5rem 4rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "Liberation Sans", sans-serif; overflow-wrap: anywhere;
}
h1 { margin: 0; font-size: 2.1rem; line-height: 1.2; letter-spacing: -0.02em; }
h2 { margin: 0 0 0.8rem; font-size: 1.2rem; line-height: 1.3; letter-spacing: -0.01em; }
p { margin: 0 0 0.8rem; max-width: 44rem; }
a { color: var(--accent); text-underline-offset: 0.2em; }
.subtitle { margin-top: 0.35rem; color: var(--soft); font-size: 1.05rem; }
.note, figcaption { color: var(--soft); font-size: 0.9rem; }
.cards {
  display: grid; gap: 0.8rem; margin: 1.6rem 0 0;
  grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr));
}
.cards div, section, nav ol {
  background: var(--panel); border: 1px solid var(--line); border-radius: 12px;
  box-shadow: var(--shadow);
}
.cards div { display: flex; flex-direction: column-reverse; padding: 0.9rem 1.1rem 1rem; }
.cards dt { color: var(--soft); font-size: 0.88rem; line-height: 1.35; }
.cards dd {
  margin: 0; font-size: 1.75rem; font-weight: 650; line-height: 1.3; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums;
}
.cards div { justify-content: flex-end; }
nav ol {
  display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; margin: 0.8rem 0 0; padding: 0.7rem 1.1rem;
  list-style: none; font-size: 0.92rem;
}
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { margin-top: 1.2rem; padding: 1.2rem 1.4rem 1.4rem; }
.item + .item { margin-top: 1.4rem; }
.item > :last-child { margin-bottom: 0; }
.scroll { max-height: 34rem; overflow: auto; }
table {
  border-collapse: collapse; font-size: 0.95rem; font-variant-numeric: tabular-nums;
  overflow-wrap: break-word;
}
th, td {
  padding: 0.42rem 1.4rem 0.42rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top;
}
th:last-child, td:last-child { padding-right: 0.6rem; }
th {
  position: sticky; top: 0; background: var(--panel); color: var(--soft); font-weight: 600;
  font-size: 0.85rem; box-shadow: inset 0 -1px var(--line);
}
tr:last-child td { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
.pictures {
  display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr));
}
figure { margin: 0; }
figure.wide { grid-column: 1 / -1; }
img { display: block; width: 100%; height: auto; border-radius: 8px; }
figcaption { margin-top: 0.45rem; }
.plot { height: var(--height); }
summary { cursor: pointer; color: var(--accent); }
pre { margin: 0.8rem 0 0; overflow-x: auto; font-size: 0.85rem; line-height: 1.5; }
@media (max-width: 40rem) {
  body { padding: 1.4rem 0.8rem 2.5rem; }
  h1 { font-size: 1.6rem; }
  section { padding: 1rem; }
  .cards { grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 0.6rem; }
  .cards div { padding: 0.7rem 0.9rem 0.8rem; }
  .cards dd { font-size: 1.35rem; }
  .plot.scene { height: min(var(--height), 90vw); }
}
@media print {
  body { max-width: none; padding: 0; background: none; font-size: 11pt; }
  section, .cards div, nav ol { box-shadow: none; }
  nav, .modebar { display: none; }
  .scroll { max-height: none; overflow: visible; }
  h2 { break-after: avoid; }
  tr, figure, .plot, .cards { break-inside: avoid; }
}
</style>
"""

SCRIPT = """<noscript><p>The figures need JavaScript.</p></noscript>
<script>
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const isNarrow = innerWidth < 640;
  const template = () => {
    const axis = {
      gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"),
      automargin: true,
    };
    const deep = { ...axis, showbackground: false, color: colour("--soft") };
    return { layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: {
        family: getComputedStyle(document.body).fontFamily, color: colour("--ink"),
        size: isNarrow ? 11 : 13,
      },
      colorway: ["#3b8bd0", "#e0651b", "#1f9e77", "#c2569b", "#b8860b", "#7a6fd0"],
      hoverlabel: {
        bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--ink") },
        align: "left", namelength: -1,
      },
      modebar: {
        bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent"),
      },
      margin: { l: 50, r: 20, t: 30, b: 45 },
      xaxis: axis, yaxis: axis, scene: { xaxis: deep, yaxis: deep, zaxis: deep },
    } };
  };
  const plots = [...document.querySelectorAll(".plot")];
  const buttons = [["toImage", "resetCameraDefault3d"]];
  const draw = (plot) => {
    const { data, layout } = JSON.parse(plot.querySelector("script").textContent);
    delete layout.height;
    layout.template = template();
    const isScene = plot.classList.contains("scene");
    if (isScene) stepBack(layout.scene?.camera, plot);
    const options = { modeBarButtons: buttons, displayModeBar: isScene && !isNarrow };
    return Plotly.newPlot(plot, data, layout, { responsive: true, displaylogo: false, ...options });
  };
  // A view's opening angle is its height's: on a narrow screen the sides would be cut off.
  const stepBack = (camera, plot) => {
    const factor = Math.max(1, 1.4 * plot.clientHeight / plot.clientWidth);
    for (const axis of camera?.eye ? "xyz" : "") {
      const centre = camera.center?.[axis] ?? 0;
      camera.eye[axis] = centre + (camera.eye[axis] - centre) * factor;
    }
  };
  window.figuresDrawn = Promise.all(plots.map(draw));
  const recolour = () => plots.forEach((plot) => {
    Plotly.relayout(plot, { template: template(), autosize: true });
  });
  for (const query of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(query).addEventListener("change", recolour);
  }
})();
</script>
"""
