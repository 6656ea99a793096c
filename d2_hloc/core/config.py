"""YAML -> frozen keyword-only dataclasses. An unknown key or a wrong type is an error."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from d2_hloc.core.yaml_file import read_yaml

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that does not fit; the text names the file and the key."""


def load(cls: type[T], path: str | Path) -> T:
    """Read a YAML file into the dataclass `cls`.

    Raises:
        ConfigError: for a missing file, invalid YAML, an unknown key or a value of a wrong type.
    """
    try:
        values = read_yaml(Path(path))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return from_dict(cls, {} if values is None else values, str(path))


def from_dict(cls: type[T], values: Any, where: str = "configuration") -> T:
    """Make the dataclass `cls` from nested dictionaries; `where` begins the text of an error."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected keys and values, found {_shown(values)}.")
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(typing.cast(Any, cls))]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {_shown(key)}; known are {', '.join(known)}.")
    converted = {k: _convert(hints[k], v, f"{where}: {k}") for k, v in values.items()}
    try:
        return cls(**converted)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def to_dict(conf: Any) -> dict[str, Any]:
    """A dataclass of options as plain values that JSON and YAML can hold; paths are absolute."""
    return {f.name: _plain(getattr(conf, f.name)) for f in dataclasses.fields(conf)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value.resolve()) if isinstance(value, Path) else value


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{where}: {_shown(value)} is not one of {', '.join(map(repr, args))}.")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, found {_shown(value)}.")
        return tuple(_convert(args[0], v, where) for v in value)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    return _convert_scalar(hint, value, where)


def _convert_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    options = [a for a in args if a is not type(None)]
    errors = []
    for option in options:
        try:
            return _convert(option, value, where)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _convert_scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.inf
    if hint is float and isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{where}: expected a number, found {value}.")
    if hint is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    if type(value) is hint or (hint is Path and isinstance(value, Path)):
        return value
    hint_text = " (YAML needs a point in numbers such as 1.0e-4)" if hint is float else ""
    raise ConfigError(f"{where}: expected {hint.__name__}, found {_shown(value)}{hint_text}.")


_limited = reprlib.Repr()
_limited.maxstring = _limited.maxother = _limited.maxlong = 80
_limited.maxlevel = 3


def _shown(value: Any) -> str:
    """A value as an error repeats it: cut where it is long."""
    return _limited.repr(value)
