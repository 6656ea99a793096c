"""The documentation: examples that run, links that lead somewhere, pages that are all found."""

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
