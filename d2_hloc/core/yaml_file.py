"""YAML files of options, of a bounded size and depth, in which no key stands twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from d2_hloc.core.text import read_text

MOST_VALUES = 10_000  # of a file, each alias counting as what it stands for
DEEPEST = 32  # blocks within blocks
LONGEST = 1 << 20  # characters


class YamlError(ValueError):
    """A file that is no YAML, or more than options can be; the text names the file."""


def read_yaml(path: Path) -> Any:
    """Read a YAML file of plain values.

    Raises:
        YamlError: if it is no YAML, too long or too deep, or a key stands there twice.
        ValueError: as read_text.
    """
    text = read_text(path)
    if len(text) > LONGEST:
        raise YamlError(f"{path}: has {len(text)} characters, and options at most {LONGEST}.")
    try:
        return yaml.load(text, _BoundedLoader)
    except yaml.YAMLError as error:
        raise YamlError(f"{path}: is not valid YAML ({' '.join(str(error).split())}).") from error
    except Exception as error:  # a value that belies its tag can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise YamlError(f"{path}: holds a value that cannot be read ({reason}).") from error


class _BoundedLoader(yaml.SafeLoader):
    """Loader that refuses what a few characters can blow up, and two equal keys.

    PyYAML itself keeps the last of two equal keys, and says nothing.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def get_single_node(self) -> yaml.Node | None:
        """Compose the whole file, and count its values before any is made."""
        node = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a value, unless it is too deep inside others."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested deeper than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a dictionary, unless a key stands there twice."""
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} stands there twice")
        return super().construct_mapping(node, deep)


def _count(node: yaml.Node, counts: dict[int, int | None]) -> int:
    """Count the values below a node, aliases as what they stand for.

    `counts` holds those of nodes that are done, and None for those under way.
    """
    if id(node) in counts:
        known = counts[id(node)]
        if known is None:
            raise yaml.YAMLError("a value holds itself")
        return known
    counts[id(node)] = None
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_count(child, counts) for child in node.value)
    if isinstance(node, yaml.MappingNode):
        total += sum(_count(child, counts) for pair in node.value for child in pair)
    if total > MOST_VALUES:
        raise yaml.YAMLError(f"it holds more than {MOST_VALUES} values")
    counts[id(node)] = total
    return total
