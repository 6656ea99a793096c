"""The documentation: examples that run, links that lead somewhere, pages that are all found."""

import ast
import doctest
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS]


def test_the_examples_of_the_api_do_what_they_say():
    found = doctest.testfile(
        str(ROOT / "docs" / "api.md"),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL,
    )
    assert found.attempted > 20
    assert found.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_navigation():
    def pages(entry):
        if isinstance(entry, str):
            yield entry
        for value in entry.values() if isinstance(entry, dict) else ():
            for item in value if isinstance(value, list) else [value]:
                yield from pages(item)

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(page for entry in nav for page in pages(entry)) == [page.name for page in DOCS]


def test_the_two_commands_stand_in_readme():
    readme = (ROOT / "README.md").read_text()
    for command in ("pip install . && d2-hloc demo", "bash tests/run.sh"):
        assert f"    python -m venv .venv && . .venv/bin/activate && {command}\n" in readme


def said_by_the_package():
    """Texts of the package's code, those of f-strings with ... for what they fill in."""
    for path in (ROOT / "d2_hloc").rglob("*.py"):
        tree = ast.parse(path.read_text())
        parts = {id(p) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for p in n.values}
        parts |= {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    p.value if isinstance(p, ast.Constant) else "..." for p in node.values
                )
            elif isinstance(node, ast.Constant) and id(node) not in parts:
                yield str(node.value)


def test_errors_of_the_troubleshooting_page_are_said_somewhere():
    said = " ".join(said_by_the_package())
    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    texts = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(texts) > 15
    for text in texts:
        for part in filter(None, map(str.strip, text.split("..."))):
            assert part in said, text
