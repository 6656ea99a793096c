"""Options described by their dataclasses: each has a text, and YAML files of them come back."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from scripts import BENCHMARKS, TRAININGS, load

from d2_hloc.app.cli import CONFIGURED
from d2_hloc.core import config
from d2_hloc.core.described import attribute_texts, commented_yaml, described_options
from d2_hloc.core.ranges import check_ranges

WITH_OPTIONS = CONFIGURED | {
    name: getattr(load(name), cls) for name, cls in (BENCHMARKS | TRAININGS).items()
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """Inner options.

    Attributes:
        size: an edge,
            pixels.
        name: a name.
    """

    size: float = 1e-6
    name: str = "none: [at] all"

    def __post_init__(self):
        check_ranges(self, size=(0, 5))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    """Outer options.

    Attributes:
        inner: the first.
        other: the second; null is none.
        path: a path.
    """

    inner: Inner = dataclasses.field(default_factory=Inner)
    other: Inner | None = None
    path: Path | None = None


def test_options_are_described_in_order_with_texts_ranges_and_defaults():
    found = {o.dotted: o for o in described_options(Outer)}
    assert list(found)[:4] == ["inner", "inner.size", "inner.name", "other"]
    size = found["inner.size"]
    assert (size.text, size.limits, size.default) == ("an edge, pixels.", "0 to 5", 1e-6)
    assert found["other.size"].default == 1e-6
    assert found["other"].default is None


def test_a_commented_file_comes_back_as_the_defaults():
    text = commented_yaml(Outer, "heading")
    assert config.from_dict(Outer, yaml.safe_load(text)) == Outer()
    assert "  size: 1.0e-06 # an edge, pixels [0 to 5]" in text
    assert "  # size: 1.0e-06" in text  # below a group that is null


@pytest.mark.parametrize("command", WITH_OPTIONS)
def test_every_option_of_a_command_has_a_text(command):
    assert [o.dotted for o in described_options(WITH_OPTIONS[command]) if not o.text] == []


@pytest.mark.parametrize("command", WITH_OPTIONS)
def test_no_text_is_of_an_option_that_is_gone(command):
    groups = [
        WITH_OPTIONS[command],
        *(o.group for o in described_options(WITH_OPTIONS[command]) if o.group),
    ]
    for cls in groups:
        assert set(attribute_texts(cls)) <= {f.name for f in dataclasses.fields(cls)}, cls


@pytest.mark.parametrize("command", CONFIGURED)
def test_the_written_configuration_of_a_command_is_its_default(command, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(commented_yaml(CONFIGURED[command], command))
    assert config.load(CONFIGURED[command], path) == CONFIGURED[command]()
