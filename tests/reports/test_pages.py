"""The page of each command, as a browser shows it: nothing is amiss, and the keyboard works."""

from pathlib import Path

import pytest

from d2_hloc.app import cli

COMMANDS = "pair", "reconstruct", "localize", "compare"


@pytest.fixture(scope="module")
def pages(small_run, tmp_path_factory) -> dict[str, Path]:
    """The page that each command writes, of four views and one query."""
    folder = tmp_path_factory.mktemp("pages")
    images = sorted(str(path) for path in small_run.images.rglob("*.jpg"))[:2]
    short = ["--resize-max", "240", "--quiet"]
    assert cli.main(["pair", *images, str(folder / "pair"), *short]) == 0
    arguments = [str(small_run.output), str(small_run.queries), str(folder / "localize")]
    assert cli.main(["localize", *arguments, *small_run.intrinsics, "--quiet"]) == 0
    page = folder / "compare" / "report.html"
    page.parent.mkdir()
    both = [str(small_run.output), str(folder / "localize"), "--page", str(page)]
    assert cli.main(["compare", *both]) == 0
    found = {name: folder / name / "report.html" for name in COMMANDS}
    return found | {"reconstruct": small_run.output / "report.html"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_page_opens_without_an_error(pages, browser, command):
    browser.width(1200)
    browser.open(pages[command])
    browser.value("window.figuresDrawn?.then(() => 0)")
    for is_dark in (True, False):
        browser.shows_dark(is_dark)
        browser.value("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
    assert browser.errors() == []
    assert {url.split(":")[0] for url in browser.requests()} <= {"file", "data", "blob"}
    assert browser.value("[...document.images].every((i) => i.naturalWidth > 0)")
    assert browser.value("[...document.querySelectorAll('.plot')].every((p) => p._fullLayout)")


def test_the_swipe_view_moves_by_keys(pages, browser):
    browser.open(pages["pair"])
    browser.value("document.querySelector('.swipe input').focus()")
    at = "document.querySelector('.swipe').style.getPropertyValue('--at')"
    before = browser.value(at)
    for kind in ("keyDown", "keyUp"):
        key = {"key": "ArrowRight", "code": "ArrowRight", "windowsVirtualKeyCode": 39}
        browser.call("Input.dispatchKeyEvent", type=kind, **key)
    browser.until(f"{at} != {before!r}")
    assert browser.value(at) == "51%"
    browser.value("document.querySelector('.swipe button').focus()")
    for kind in ("keyDown", "keyUp"):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        browser.call("Input.dispatchKeyEvent", type=kind, **key)
    browser.until("document.querySelector('.swipe button').ariaPressed == 'true'")
    browser.until(f"{at} == '100%'")  # it flickers
    assert browser.errors() == []


def test_a_query_stands_beside_the_model_from_its_pose(pages):
    page = pages["localize"].read_text()
    assert "Queries and the model from their poses" in page
    assert page.count("<img ") == 2  # the matches, and this one
