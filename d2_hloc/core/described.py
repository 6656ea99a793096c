"""Options as their dataclasses describe them: text, range and default of each, for people to read.

The text is a line of the class's docstring, under 'Attributes:'; the range is that which the class
checks. Nothing is said twice.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from d2_hloc.core.ranges import MANY, Range, ranges_of

FAR = 1e6  # a limit from here on is no limit to people


@dataclass(frozen=True, kw_only=True)
class Described:
    """One option, or a group of them, at its place in the tree of a configuration."""

    path: tuple[str, ...]
    hint: Any
    default: Any
    text: str
    range: Range | None = None
    group: type | None = None  # dataclass of the options below this one

    @cached_property
    def dotted(self) -> str:
        """The path as it is written: 'reconstruction.verification.max_error'."""
        return ".".join(self.path)

    @cached_property
    def choices(self) -> tuple[Any, ...]:
        """Values of an option that is one of a few."""
        return next((typing.get_args(h) for h in parts(self.hint) if is_literal(h)), ())

    @property
    def limits(self) -> str:
        """The range in words, or nothing where any number will do."""
        if self.range is None:
            return ""
        least, most = (f"{limit:.10g}" for limit in self.range)
        if abs(self.range[1]) >= min(FAR, MANY):
            return f"{least} or more"
        return f"{least} to {most}"

    @property
    def default_text(self) -> str:
        """The default as YAML has it."""
        return as_yaml(self.default)


def described_options(cls: type, default: Any = None) -> tuple[Described, ...]:
    """Every option of a dataclass and of those in it, groups before what they hold."""
    return _default_options(cls) if default is None else tuple(_options(cls, (), default))


@cache
def _default_options(cls: type) -> tuple[Described, ...]:
    return tuple(_options(cls, (), cls()))


def _options(cls: type, path: tuple[str, ...], default: Any) -> Iterator[Described]:
    hints, texts, ranges = typing.get_type_hints(cls), attribute_texts(cls), ranges_of(cls)
    for field in dataclasses.fields(cls):
        hint, value = hints[field.name], getattr(default, field.name)
        group = next((h for h in parts(hint) if dataclasses.is_dataclass(h)), None)
        place = (*path, field.name)
        yield Described(
            path=place,
            hint=hint,
            default=value,
            text=texts.get(field.name, ""),
            range=ranges.get(field.name),
            group=typing.cast(Any, group),
        )
        if group is not None:
            group = typing.cast(type, group)
            yield from _options(group, place, group() if value is None else value)


def parts(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows; one, where it is no union."""
    is_union = typing.get_origin(hint) is not None and not is_literal(hint) and not is_tuple(hint)
    return typing.get_args(hint) if is_union else (hint,)


def is_literal(hint: Any) -> bool:
    """True for Literal[...]."""
    return typing.get_origin(hint) is Literal


def is_tuple(hint: Any) -> bool:
    """True for tuple[...]."""
    return typing.get_origin(hint) is tuple


def attribute_texts(cls: type) -> dict[str, str]:
    """Descriptions of a class's attributes: the lines under 'Attributes:' of its docstrings."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        section = re.split(r"\n(?=\S)", section)[0]
        for entry in re.split(r"\n {4}(?=\S)", "\n" + section):
            name, _, text = entry.partition(":")
            if text:
                texts[name.strip()] = " ".join(text.split())
    return texts


def as_yaml(value: Any) -> str:
    """A plain value on one line."""
    value = str(value) if isinstance(value, Path) else value
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def commented_yaml(cls: type, heading: str) -> str:
    """A YAML file of all options at their defaults, each with its text and range beside it.

    Options below a group that is null by default are commented out.
    """
    lines, off = [f"# {heading}"], list[tuple[str, ...]]()
    for option in described_options(cls):
        is_off = any(option.path[: len(place)] == place for place in off)
        indent = "  " * (len(option.path) - 1) + ("# " if is_off else "")
        has_block = option.group is not None and option.default is not None
        value = "" if has_block else f" {option.default_text}"
        said = " ".join(filter(None, [option.text.rstrip("."), _choice_text(option)]))
        lines.append(f"{indent}{option.path[-1]}:{value}" + (f" # {said}" if said else ""))
        if option.group is not None and option.default is None:
            off.append(option.path)
    return "\n".join(lines) + "\n"


def _choice_text(option: Described) -> str:
    said = " | ".join(map(str, option.choices)) or option.limits
    return f"[{said}]" if said else ""
