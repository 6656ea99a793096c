"""Every number of every options class is refused out of its range, before any work."""

import builtins
import dataclasses
import importlib
import math
import os
import pkgutil
import typing

import pytest
from scripts import load

import d2_hloc
from d2_hloc.core import config
from d2_hloc.core.ranges import check_ranges

INFINITE = {"max_scale_ratio"}  # that may be


def options_classes():
    """The classes that a command's or pipeline's YAML can hold, and --engine's."""
    found = set()
    roots = [load("train").Train]
    for module in pkgutil.walk_packages(d2_hloc.__path__, "d2_hloc."):
        if ".hloc" in module.name or module.name.endswith("__main__"):
            continue
        names = vars(importlib.import_module(module.name))
        roots += [c for n, c in names.items() if n.endswith("Options") and isinstance(c, type)]
        wanted = "Cluster", "InLoc", "Aachen", "PhotoReconstruction", "Reconstruct", "Localize"
        roots += [names[n] for n in wanted if isinstance(names.get(n), type)]

    def add(cls):
        if dataclasses.is_dataclass(cls) and cls not in found:
            found.add(cls)
            for hint in typing.get_type_hints(cls).values():
                for part in (hint, *typing.get_args(hint)):
                    add(part)

    for root in roots:
        add(root)
    return sorted(found, key=lambda cls: cls.__name__)


def numbers():
    """(class, name of a field, is it a whole number, does it hold several)."""
    for cls in options_classes():
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            kinds = {hints[field.name], *typing.get_args(hints[field.name])}
            if field.init and kinds & {int, float}:
                yield pytest.param(
                    cls,
                    field.name,
                    int in kinds,
                    tuple in {typing.get_origin(k) for k in kinds}
                    or typing.get_origin(hints[field.name]) is tuple,
                    id=f"{cls.__name__}.{field.name}",
                )


def test_the_walk_finds_the_options():
    names = {cls.__name__ for cls in options_classes()}
    assert {"MatchingOptions", "VerificationOptions", "Train", "GuidedOptions", "Cluster"} <= names
    assert len(list(numbers())) > 100


@pytest.mark.parametrize(("cls", "name", "is_whole", "is_tuple"), list(numbers()))
def test_a_number_out_of_its_range_is_refused_with_the_range(cls, name, is_whole, is_tuple):
    wrong = [-(10**12), 10**12] if is_whole else [math.nan, -math.inf, math.inf, -1e12, 1e12]
    for value in wrong:
        if value > 1e9 and name in INFINITE:
            continue
        with pytest.raises(ValueError, match=name.split("_")[-1]) as error:
            cls(**{name: (value,) if is_tuple else value})
        assert str(value) in str(error.value)


@pytest.mark.parametrize("cls", options_classes(), ids=lambda cls: cls.__name__)
def test_defaults_are_in_their_ranges_and_come_back(cls):
    required = [
        f
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if not required:
        conf = cls()
        assert config.from_dict(cls, config.to_dict(conf)) == conf


def test_options_are_made_without_a_look_at_files(monkeypatch):
    def touched(path, *args, **kwargs):
        raise AssertionError(f"{path} was looked at")

    made = [cls for cls in options_classes() if cls.__name__ != "Train"]
    for name in ("stat", "lstat", "open", "listdir", "scandir", "mkdir"):
        monkeypatch.setattr(os, name, touched)
    monkeypatch.setattr(builtins, "open", touched)
    for cls in made:
        if not any(f.default is f.default_factory for f in dataclasses.fields(cls)):  # required
            cls()
        if "weights" in {f.name for f in dataclasses.fields(cls)}:
            cls(weights="nowhere/weights.pth")


def test_nothing_and_several_numbers_are_checked():
    @dataclasses.dataclass
    class Conf:
        one: float | None = None
        many: tuple[float, ...] = ()

    check_ranges(Conf(), one=(0, 1), many=(0, 1))
    with pytest.raises(ValueError, match=r"many must be from 0 to 1, not 2\."):
        check_ranges(Conf(many=(0.5, 2)), one=(0, 1), many=(0, 1))
