"""Ranges of options: what cannot be meant is refused before any work, with what can."""

from __future__ import annotations

from typing import Any

MANY = 10**9  # of anything that is counted
SEEDS = 0, 2**31 - 1001  # of C's int, with room for a thousand attempts
PIXELS = 1e-3, 1e5  # of an error, or a distance in an image
EDGES = 1, 10**5  # pixels
SHARES = 0.0, 1.0
RATIOS = 1e-3, 1.0  # of a first neighbour's distance to the second's
THREADS = 1, 1024

Range = tuple[float, float]

_known: dict[type, dict[str, Range]] = {}  # of each class that has checked itself


def check_ranges(options: Any, **ranges: Range) -> None:
    """Check attributes against their ranges, ends included.

    An attribute may be None, which stands for no such limit, or hold several numbers.

    Args:
        options: has an attribute of each name.
        ranges: the least and the largest value by name.

    Raises:
        ValueError: for the first that is not in its range, with both; NaN is in none.
    """
    _known.setdefault(type(options), {}).update(ranges)
    for name, (least, most) in ranges.items():
        value = getattr(options, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not least <= number <= most:
                raise ValueError(f"{name} must be from {least:.10g} to {most:.10g}, not {number}.")


def ranges_of(cls: type) -> dict[str, Range]:
    """The ranges that a class of options checks, by attribute: it says them there alone."""
    if cls not in _known:
        cls()
    return _known.get(cls, {})
