"""Arguments of a command line that stand for the options of a dataclass.

A command names the few options that people use; all of them are arguments by their place in the
configuration, `--reconstruction.verification.max-error 2`, and --help-all shows those too.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from d2_hloc.core.described import Described, described_options, is_tuple, parts

C = TypeVar("C")
NOTHING = ("null", "none")
SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
METAVARS = {int: "N", float: "X", bool: "on|off", Path: "PATH", str: "TEXT"}


class OptionArguments:
    """The options of a dataclass as arguments of a parser.

    Only those that are given appear in what the parser returns, by their dotted places.
    """

    def __init__(self, parser: argparse.ArgumentParser, cls: type, default: Any = None) -> None:
        """`default`: the options whose values help shows as the defaults, if not the class's."""
        self._parser = parser
        self._options = {o.dotted: o for o in described_options(cls, default=default)}

    def add(self, flag: str, place: str, text: str | None = None) -> None:
        """Add an argument for the option at a place, with a short name that --help shows."""
        option = self._options[place]
        self._parser.add_argument(flag, help=_help(option, text), **_form(option))

    def add_all(self) -> None:
        """Add an argument for every option, and --help-all, which shows them."""
        hidden: list[tuple[Described, argparse.Action]] = []
        group: argparse._ArgumentGroup | argparse.ArgumentParser = self._parser
        for option in self._options.values():
            if len(option.path) == 1:
                group = self._parser.add_argument_group(f"options of {option.path[0]}")
            if option.group is None:
                flag = "--" + option.dotted.replace("_", "-")
                if flag not in self._parser._option_string_actions:
                    form = _form(option)
                    action = group.add_argument(flag, help=argparse.SUPPRESS, **form)
                    hidden.append((option, action))
        self._parser.add_argument("--help-all", action=_HelpAll, hidden=hidden)


class _HelpAll(argparse.Action):
    """Show the hidden arguments with the others, and end."""

    def __init__(self, hidden: Any, **settings: Any) -> None:
        text = "show every option with its range and default, and exit"
        settings |= {"nargs": 0, "help": text, "default": argparse.SUPPRESS}
        super().__init__(**settings)
        self._hidden = hidden

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print the whole help."""
        for option, action in self._hidden:
            action.help = _help(option, None)
        parser.print_help()
        parser.exit()


def _form(option: Described) -> dict[str, Any]:
    """Keywords of add_argument for an option."""
    kinds = [kind for kind in parts(option.hint) if kind is not type(None)]
    metavar = "|".join(map(str, option.choices)) or METAVARS.get(kinds[0], "X,...")
    return {
        "dest": option.dotted,
        "type": _Value(option),
        "metavar": metavar,
        "default": argparse.SUPPRESS,
    }


def _help(option: Described, text: str | None) -> str:
    said = (option.text if text is None else text).rstrip(".")
    default = "" if option.default is None else f" ({option.default_text})"
    limits = f" [{option.limits}]" if option.limits else ""
    return f"{said}{limits}{default}".replace("%", "%%")


class _Value:
    """The value of an option from an argument's text."""

    def __init__(self, option: Described) -> None:
        self._option = option

    def __call__(self, text: str) -> Any:
        kinds = parts(self._option.hint)
        if type(None) in kinds and text.lower() in NOTHING:
            return None
        if self._option.choices:
            if text not in self._option.choices:
                known = ", ".join(map(str, self._option.choices))
                raise argparse.ArgumentTypeError(f"{text!r} is not one of {known}")
            return text
        kind = next(kind for kind in kinds if kind is not type(None))
        if is_tuple(kind):
            return tuple(_scalar(typing.get_args(kind)[0], part) for part in text.split(","))
        return _scalar(kind, text)


def _scalar(kind: type, text: str) -> Any:
    try:
        return SWITCH[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        expected = {int: "a whole number", float: "a number", bool: "on or off"}
        message = f"expected {expected.get(kind, kind.__name__)}, found {text!r}"
        raise argparse.ArgumentTypeError(message) from error


def given_options(args: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The options of a dataclass that arguments give, by dotted place."""
    places = {option.dotted for option in described_options(cls) if option.group is None}
    return {place: value for place, value in vars(args).items() if place in places}


def changed(conf: C, values: Mapping[str, Any]) -> C:
    """Copy a configuration with other values at dotted places.

    Below a group that is null, the others have their defaults.

    Raises:
        ValueError: for a value out of its range; the text names its place.
    """
    options = {
        o.path[0]: o for o in described_options(type(conf), default=conf) if len(o.path) == 1
    }
    new: dict[str, Any] = {}
    for name in dict.fromkeys(place.partition(".")[0] for place in values):
        below = {p.partition(".")[2]: v for p, v in values.items() if p.partition(".")[0] == name}
        if "" in below:
            new[name] = below[""]
        else:
            group = typing.cast(type, options[name].group)
            found, hints = getattr(conf, name), typing.get_type_hints(group)
            try:
                new[name] = changed(group() if found is None else found, below)
            except ValueError as error:
                joint = "." if str(error).split()[0].partition(".")[0] in hints else ": "
                raise ValueError(f"{name}{joint}{error}") from error
    return dataclasses.replace(typing.cast(Any, conf), **new)
