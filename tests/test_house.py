"""Sizes, names and docstrings that keep the package readable, checked in the source."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import d2_hloc
from d2_hloc.files.outputs import Inside, Outputs

ROOT = Path(d2_hloc.__file__).parent
SOURCES = {path: path.read_text() for path in sorted(ROOT.rglob("*.py"))}
TREES = {path: ast.parse(source) for path, source in SOURCES.items()}
MOST_LINES, LONGEST_FUNCTION = 350, 60
VAGUE_OPENINGS = ("What", "Of", "Those", "As", "That", "Over", "In", "Per", "Before")

# One interface, several implementations.
SHARED_NAMES = {
    "main": "entry points",
    "without_points": "a model's copy for COLMAP, of the binary form and of text",
}

# The same name, of something else: a data set's, or an example in a message.
FOREIGN_FILES = {
    "benchmarks/aachen/data.py": {"database.db"},
    "benchmarks/sfm_benchmark/data.py": {"database.db"},
    "files/staged_h5.py": {"features.h5"},
    "reports/page.py": {"report.html"},  # the template
}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(path):
    return [node for node in ast.walk(TREES[path]) if isinstance(node, Definition)]


def relative(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_is_read_in_one_go(path):
    assert len(SOURCES[path].splitlines()) <= MOST_LINES
    for node in definitions(path):
        if not isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


def vague_openings(tree):
    """First words of docstrings that do not say what they are about."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | Definition):
            words = (ast.get_docstring(node) or "Nothing").split()
            if words[0].rstrip(",:;") in VAGUE_OPENINGS:
                yield " ".join(words[:8])


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_docstring_opens_with_what_it_is_about(path):
    assert list(vague_openings(TREES[path])) == []


@pytest.mark.parametrize("folder", ["pipelines", "benchmarks", "tests"])
def test_docstrings_beside_the_package_do_so_too(folder):
    found = {
        str(path): list(vague_openings(ast.parse(path.read_text())))
        for path in (ROOT.parent / folder).rglob("*.py")
    }
    assert {path: words for path, words in found.items() if words} == {}


def test_a_name_stands_for_one_thing():
    places = defaultdict(set)
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, Definition) and not node.name.startswith("_"):
                places[node.name].add(relative(path))
    shared = {name: found for name, found in places.items() if len(found) > 1}
    known = set(SHARED_NAMES)
    assert {name: found for name, found in shared.items() if name not in known} == {}
    assert not known - set(shared), "exceptions that are none any more"


def test_a_runs_files_are_named_in_outputs_alone():
    inside = {value.name for value in vars(Outputs).values() if isinstance(value, Inside)}
    files = {name for name in inside if Path(name).suffix}
    assert {"features.h5", "report.html", "run.json"} <= files
    named = {}
    for path, tree in TREES.items():
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        named[relative(path)] = texts & files
    outputs, listing = named.pop("files/outputs.py"), named.pop("core/listing.py")
    assert outputs | listing == files
    assert not outputs & listing
    assert {path: texts for path, texts in named.items() if texts} == FOREIGN_FILES
