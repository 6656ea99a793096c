"""The report: its text, its numbers, and how a browser shows it."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from browser import Browser
from figures import model
from PIL import Image

from d2_hloc.reports.charts import (
    bar_figure,
    curves_figure,
    histogram_figure,
    matrix_figure,
    timings_figure,
)
from d2_hloc.reports.drawing import draw_matches
from d2_hloc.reports.model_figure import model_figure
from d2_hloc.reports.page import MAX_PICTURE, Report, embed
from d2_hloc.reports.plot_style import BLUE, ORANGE
from d2_hloc.reports.values import format_column, format_value

HOSTILE = "<script>alert(1)</script>&\"'.jpg"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (14158, "14,158"),
        (np.int64(1000), "1,000"),
        (0.23061, "0.231"),
        (np.float32(4.76), "4.76"),
        (0.300173, "0.300"),
        (0.5, "0.5"),
        (3536.73, "3,537"),
        (1e-7, "1.00e-07"),
        (0.0, "0"),
        (-2.9, "-2.9"),
        (True, "yes"),
        (None, "–"),  # noqa: RUF001
        (float("nan"), "–"),  # noqa: RUF001
        (float("inf"), "∞"),
        ("11 of 11", "11 of 11"),
        (Path("a/b.jpg"), "a/b.jpg"),
    ],
)
def test_a_value_reads_well(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.127, 0.2, 0.5], ["0.127", "0.200", "0.500"]),
        ([0.25, 0.5, 5.0], ["0.25", "0.50", "5.00"]),
        ([12.345, 0.031, None], ["12.345", "0.031", "–"]),  # noqa: RUF001
        ([100.0, 250.0, float("nan")], ["100", "250", "–"]),  # noqa: RUF001
        ([14158.4, 0.231], ["14,158", "0.231"]),
        ([11, 0.3001], ["11", "0.300"]),
        ([0.0, 0.0], ["0", "0"]),
        ([], []),
    ],
)
def test_a_column_has_one_precision(values, texts):
    assert format_column(values) == texts


def test_numbers_stand_to_the_right():
    report = Report("t")
    rows = [("a.jpg", 7, "12.5"), ("b.jpg", None, "-")]
    report.table("Numbers", rows, columns=("image", "matches", "error"))
    html = report.html()
    assert '<th>image</th><th class="number">matches</th><th class="number">error</th>' in html
    assert '<td>a.jpg</td><td class="number">7</td><td class="number">12.5</td>' in html


def test_rows_may_be_dictionaries_with_gaps():
    report = Report("t")
    report.table("Numbers", [{"a": 1}, {"b": 2}], note="two rows")
    html = report.html()
    assert re.findall(r"<t[hd](?: [^>]*)?>([^<]*)<", html) == ["a", "b", "1", "–", "–", "2"]  # noqa: RUF001
    assert "two rows" in html


def test_a_table_without_rows_and_a_ragged_one():
    report = Report("t")
    report.table("Numbers", [], columns=("a", "b"))
    assert "There are no rows." in report.html()
    with pytest.raises(ValueError, match="row 1 has 1 cells instead of 2"):
        report.table("Numbers", [(1, 2), (3,)])


NO_PICTURE = Image.new("RGB", (4, 4))
NO_FIGURE = go.Figure(go.Bar(y=[1]))
# All places of a page where text enters: how a report is made that has the text there.
TEXTS = {
    "title": lambda text: Report(text),
    "subtitle": lambda text: Report("t", text),
    "label": lambda text: added("headline", [(text, 1)]),
    "number": lambda text: added("headline", [("label", text)]),
    "heading": lambda text: added("text", text, "x"),
    "paragraph": lambda text: added("text", "heading", text),
    "listing": lambda text: added("listing", "heading", text),
    "column": lambda text: added("table", "heading", [(1,)], columns=(text,)),
    "key": lambda text: added("table", "heading", [{text: 1}]),
    "cell": lambda text: added("table", "heading", [(text,)]),
    "note of a table": lambda text: added("table", "heading", [(1,)], note=text),
    "caption": lambda text: added("picture", "heading", [(NO_PICTURE, text)]),
    "note of a picture": lambda text: added("picture", "heading", NO_PICTURE, note=text),
    "heading of a figure": lambda text: added("figure", text, NO_FIGURE),
    "note of a figure": lambda text: added("figure", "heading", NO_FIGURE, note=text),
    "figure": lambda text: added("figure", "heading", go.Figure(go.Bar(y=[1], hovertext=[text]))),
    "contents": lambda text: added("text", *(f"{text}{k}" for k in range(5))),
}
# All places of a figure where text enters.
LABELS = {
    "bar": lambda text: bar_figure([text], [1], "heading"),
    "bars": lambda text: bar_figure(["a", text], [1, 2], "heading"),
    "heading": lambda text: bar_figure(["a"], [1], text),
    "rank": lambda text: bar_figure([text] * 50, range(50), "heading"),
    "heading of many": lambda text: bar_figure(["a"] * 50, range(50), text),
    "stage": lambda text: timings_figure({text: 1.0}),
    "histogram": lambda text: histogram_figure(np.ones(3), text),
    "matrix": lambda text: matrix_figure(["a", text], np.ones((2, 2)), "heading"),
    "heading of a matrix": lambda text: matrix_figure(["a"], np.ones((1, 1)), text),
    "curve": lambda text: curves_figure({text: ([0, 1], [0, 1])}, "x", "y"),
    "x": lambda text: curves_figure({"a": ([0, 1], [0, 1])}, text, "y"),
    "y": lambda text: curves_figure({"a": ([0, 1], [0, 1])}, "x", text),
    "camera": lambda text: model_figure(**model(num_cameras=1) | {"names": [text]}),
}


def added(kind: str, *values: Any, **more: Any) -> Report:
    """A report with one thing, or with a section of text for every value after the second."""
    report = Report("t")
    if kind == "text" and len(values) > 2:
        for value in values:
            report.text(value, "x")
    else:
        getattr(report, kind)(*values, **more)
    return report


class Parsed(HTMLParser):
    """The elements of a page and their attributes' names; all text and values; the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))
        self.texts += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        (self.scripts if self.lasttag == "script" else self.texts).append(data)


@pytest.mark.parametrize("place", TEXTS)
def test_text_of_a_page_is_no_markup(place):
    hostile, harmless = (Parsed(TEXTS[place](text).html()) for text in (HOSTILE, "name"))
    assert hostile.elements == harmless.elements
    if place == "figure":
        hostile.texts = json.loads(hostile.scripts[0])["data"][0]["hovertext"]
    assert any(HOSTILE in text for text in hostile.texts)


@pytest.mark.parametrize("place", LABELS)
def test_text_of_a_figure_is_no_markup(place):
    """Plotly reads tags in text, so that a name must be escaped for it too."""
    source = LABELS[place](HOSTILE).to_json()
    assert "alert(1)" in source
    assert "<" not in source
    assert "\\u003c" not in source


def test_a_page_with_everything_has_no_foreign_script():
    report = Report(HOSTILE, HOSTILE)
    for heading, label in zip(range(len(LABELS)), LABELS.values(), strict=True):
        report.figure(f"{HOSTILE}{heading}", label(HOSTILE), note=HOSTILE)
    assert "<script>alert" not in report.html()


def test_nothing_comes_from_outside():
    report = Report("t")
    report.table("Numbers", [(1, 2)])
    report.picture("Picture", Image.new("RGB", (4, 4)))
    html = report.html()
    assert "default-src 'none'" in html
    assert "http" not in html.replace("http-equiv", "")
    assert all(a.startswith("data:") for a in re.findall(r'(?:src|href)="([^"#]+)"', html))
    assert "plotly" not in html  # five megabytes only where there is a figure


def test_large_pictures_are_reduced():
    report = Report("t")
    report.picture("Picture", [(Image.new("RGBA", (3000, 100)), "wide"), (tall(), "")])
    found = re.findall(r"data:image/jpeg;base64,([^\"]+)", report.html())
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size for data in found]
    assert sizes == [(MAX_PICTURE, 53), (300, 400)]
    assert report.html().count('<figure class="wide">') == 1


def tall() -> Image.Image:
    return Image.new("L", (300, 400))


def test_contents_stand_above_many_sections():
    report = Report("t")
    for heading in "abcd":
        report.text(heading, "x\n\ny")
    report.text("d", "the same section")
    assert "<nav" not in report.html()
    report.text("e", "z")
    html = report.html()
    assert html.count("<section") == 5
    assert '<a href="#s4">d</a>' in html
    assert "<p>x</p><p>y</p>" in html


def test_writes_into_a_new_folder(tmp_path):
    path = Report("Grüße").write(tmp_path / "new" / "report.html")
    assert "Grüße" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture(scope="module")
def page(tmp_path_factory, photo) -> Path:
    """A report with one of everything, and with hostile names."""
    scene = model(num_points=400, num_cameras=6)
    scene["names"][2] = HOSTILE
    image = Image.fromarray((photo.permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    xy = np.random.default_rng(0).uniform(0, 230, (40, 2))
    report = Report("Reconstruction", HOSTILE)
    report.headline([("registered images", "6 of 6"), ("points", 14158)])
    report.figure("The model", model_figure(**scene, highlight={HOSTILE}))
    report.table("Numbers", [("mean track length", 4.76061), (HOSTILE, 0.2312)])
    report.picture("Matches", [(draw_matches(image, image, xy, xy), HOSTILE)])
    report.figure("Features an image", bar_figure(scene["names"], range(6), "features"))
    report.listing("Configuration", "scales: [1.0]")
    return report.write(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def opened(browser, page) -> Browser:
    browser.width(1200)
    browser.shows_dark(False)
    browser.open(page)
    browser.value("figuresDrawn.then(() => 0)")
    return browser


def count_near(picture: np.ndarray, colour: str) -> int:
    """Pixels whose colour is about that one, `#rrggbb`."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture - wanted).max(axis=2) < 24).sum())


def test_the_browser_sees_planted_errors(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<script>console.error('a'); setTimeout(() => { throw 'b' })</script>")
    browser.open(page)
    browser.until("new Promise((r) => setTimeout(() => r(true), 50))")
    assert len(browser.errors()) == 2


def test_opens_offline_and_without_errors(opened):
    opened.drag(".scene", 40)
    assert opened.errors() == []
    assert opened.requests()
    assert {url.split(":")[0] for url in opened.requests()} <= {"file", "data", "blob"}
    cells = "[...document.querySelectorAll('td')].map((c) => c.innerText)"
    assert opened.value(cells) == ["mean track length", "4.76", HOSTILE, "0.23"]
    cards = "[...document.querySelectorAll('dd')].map((c) => c.innerText)"
    assert opened.value(cards) == ["6 of 6", "14,158"]
    assert opened.value("document.querySelector('img').naturalWidth") > 900
    assert opened.value("document.querySelectorAll('.bars .point').length") == 6
    assert HOSTILE[-18:] in opened.value("document.querySelectorAll('.plot')[1].textContent")


def test_the_model_is_drawn_and_turns(opened):
    opened.screenshot(".scene")  # the mouse rests somewhere else
    before = opened.screenshot(".scene canvas")
    assert count_near(before, BLUE) > 100
    assert count_near(before, ORANGE) > 20
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 200  # points of many colours
    opened.drag(".scene", 150)
    after = opened.screenshot(".scene canvas")
    assert count_near(after, BLUE) > 100
    assert (np.abs(after - before).max(axis=2) > 40).sum() > 500


def test_is_dark_where_the_reader_is(opened):
    light = opened.screenshot(".scene")
    opened.shows_dark(True)
    opened.until("document.querySelector('.legendtext').style.fill.startsWith('rgb(230')")
    dark = opened.screenshot(".scene")
    assert np.median(light) > 240
    assert np.median(dark) < 40
    assert count_near(dark, BLUE) > 100
    assert opened.errors() == []


def test_the_pointer_names_the_pair_of_a_square(browser, tmp_path):
    report = Report("Pairs")
    report.figure("Errors", histogram_figure(np.linspace(0, 1, 500), "pixels"))
    values = np.array([[0, 7, 7], [7, 0, 7], [7, 7, 0]])
    report.figure("Pairs", matrix_figure(["a.jpg", "b.jpg", HOSTILE], values, "matches"))
    browser.width(1200)
    browser.open(report.write(tmp_path / "report.html"))
    browser.value("figuresDrawn.then(() => 0)")
    place = browser.place(".heatmaplayer image")
    x, y = (place[a] + place[b] / 6 for a, b in (("x", "width"), ("y", "height")))
    where = {"x": x + place["width"] * 2 / 3, "y": y}  # the first row, the last column
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", **where)
    browser.until("document.querySelector('.hovertext') !== null")
    shown = browser.value("document.querySelector('.hovertext').textContent")
    assert HOSTILE in shown
    assert "a.jpg" in shown
    assert browser.errors() == []


def test_fits_a_narrow_screen(opened, page):
    opened.width(400)
    opened.open(page)
    opened.value("figuresDrawn.then(() => 0)")
    assert opened.value("document.documentElement.scrollWidth") == 400
    assert count_near(opened.screenshot(".scene canvas"), BLUE) > 30


def test_a_picture_of_nothing_but_detail_is_embedded():
    """Thousands of drawn keypoints take more bytes than the picture has pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    picture = embed(Image.fromarray(noise), "noise")
    data = base64.b64decode(picture.jpeg)
    assert len(data) > noise.shape[0] * noise.shape[1]
    assert Image.open(io.BytesIO(data)).size == (1200, 900)
