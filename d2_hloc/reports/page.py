"""A report: one page of numbers, pictures and figures that opens anywhere, without a network.

    report = Report("Reconstruction", "Fountain, 11 images")
    report.headline([("registered images", "11 of 11"), ("points", 14158)])
    report.table("Numbers", [{"metric": "mean track length", "value": 4.76}])
    report.write(Path("report.html"))

The page is made from the files in templates/. All text is data: it is escaped, and the page may
load nothing from outside (its content security policy says so to the browser).
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

from d2_hloc.files.atomic import write_atomically
from d2_hloc.reports.values import Row, cells_of, format_column, format_value, is_numeric

TEMPLATES = Path(__file__).parent / "templates"
MAX_PICTURE = 1600  # pixels, the longer side
JPEG_QUALITY = 88
WIDE = 1.8  # pictures of this width over height have a row of their own
MIN_CONTENTS = 5  # sections; fewer need no table of contents
FIGURE_HEIGHT = 440  # pixels, where a figure does not say its own


class Report:
    """A page in the making. Sections stand in the order in which they were added.

    A heading equal to the one before goes on in its section, so that a table and a figure can
    share one.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self._headline: list[tuple[str, str]] = []
        self._sections: list[tuple[str, list[Markup]]] = []
        self._has_figures = self._has_swipes = False

    def headline(self, numbers: Iterable[tuple[str, Any]]) -> None:
        """Show the few numbers that matter, (label, value), as cards on top."""
        self._headline += [(label, format_value(value)) for label, value in numbers]

    def text(self, heading: str, text: str) -> None:
        """Add paragraphs; an empty line parts them."""
        paragraphs = [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]
        self._add(heading, "text", paragraphs)

    def listing(self, heading: str, text: str) -> None:
        """Add text as it stands, such as a configuration, folded away until it is asked for."""
        self._add(heading, "listing", text)

    def table(
        self,
        heading: str,
        rows: Iterable[Row],
        columns: Sequence[str] | None = None,
        note: str | None = None,
    ) -> None:
        """Add rows that are dictionaries, or sequences in the order of `columns`.

        Without `columns`, dictionaries give all their keys, and sequences stand without a header.

        Raises:
            ValueError: if a row's length is not that of the others or of `columns`.
        """
        cells, columns = cells_of(rows, columns)
        texts = [format_column(column) for column in zip(*cells, strict=True)]
        kinds = [is_numeric(column) for column in texts]
        self._add(heading, "table", list(zip(*texts, strict=True)), columns, kinds, note)

    def figure(self, heading: str, figure: go.Figure, note: str | None = None) -> None:
        """Add a plotly figure; it takes the colours and the width of the page."""
        # The browser reads this as JSON only if no "<" can end the element that holds it.
        source = Markup(str(figure.to_json()).replace("<", "\\u003c"))
        parts = figure.to_dict()
        height = f"{parts['layout'].get('height') or FIGURE_HEIGHT:.0f}"
        is_scene = any("3d" in trace["type"] for trace in parts["data"])
        self._add(heading, "figure", heading, source, height, is_scene, note)
        self._has_figures = True

    def picture(
        self,
        heading: str,
        pictures: Image.Image | Sequence[tuple[Image.Image, str]],
        note: str | None = None,
    ) -> None:
        """Add an image, or several with captions; large ones are reduced to 1600 pixels."""
        if isinstance(pictures, Image.Image):
            pictures = [(pictures, "")]
        embedded = [embed(image, caption) for image, caption in pictures]
        self._add(heading, "pictures", embedded, note)

    def swipe(
        self,
        heading: str,
        first: Image.Image,
        second: Image.Image,
        captions: tuple[str, str],
        note: str | None = None,
    ) -> None:
        """Add two images of one size over each other, with a slider and a flicker between them."""
        self._add(heading, "swipe", embed(first, captions[0]), embed(second, captions[1]), note)
        self._has_swipes = True

    def html(self) -> str:
        """Return the whole page."""
        return (
            _environment()
            .get_template("report.html")
            .render(
                title=self.title,
                subtitle=self.subtitle,
                headline=self._headline,
                sections=self._sections,
                has_contents=len(self._sections) >= MIN_CONTENTS,
                css=_trusted("report.css"),
                js=_trusted("report.js"),
                swipe=_trusted("swipe.js") if self._has_swipes else None,
                plotly=Markup(get_plotlyjs()) if self._has_figures else None,
            )
        )

    def write(self, path: Path) -> Path:
        """Write the page, whole or not at all; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.html().encode("utf-8", "replace"))
        return path

    def _add(self, heading: str, kind: str, *values: Any) -> None:
        """Add an item, made by the macro of that name, to the section of that heading."""
        if not self._sections or self._sections[-1][0] != heading:
            self._sections.append((heading, []))
        macro = getattr(_environment().get_template("items.html").module, kind)
        self._sections[-1][1].append(macro(*values))


def live_page(title: str, output: str) -> str:
    """The page of a run that goes on, which asks the address it came from for what there is."""
    return (
        _environment()
        .get_template("live.html")
        .render(
            title=title,
            output=output,
            css=_trusted("report.css"),
            js=_trusted("report.js"),
            live=_trusted("live.js"),
            plotly=Markup(get_plotlyjs()),
        )
    )


@dataclass(frozen=True, kw_only=True)
class EmbeddedPicture:
    """A picture as a page holds it."""

    jpeg: str  # base64
    caption: str
    width: int  # pixels
    height: int

    @property
    def is_wide(self) -> bool:
        """Whether it has a row of its own."""
        return self.width >= WIDE * self.height


def embed(image: Image.Image, caption: str) -> EmbeddedPicture:
    """Compress an image, its longer side reduced to 1600 pixels, for a page."""
    image = image.convert("RGB")
    image.thumbnail((MAX_PICTURE, MAX_PICTURE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Thin coloured lines need their colour at full resolution.
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    data = base64.b64encode(buffer.getvalue()).decode()
    return EmbeddedPicture(jpeg=data, caption=caption, width=image.width, height=image.height)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _trusted(name: str) -> Markup:
    """A file of ours that goes into the page as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))
