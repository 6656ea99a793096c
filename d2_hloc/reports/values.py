"""Text of values and of columns of values, on a page and in the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

MAX_DIGITS = 6  # in a column of one precision
MISSING = "–"  # noqa: RUF001 - a dash, as printed tables have
NUMERIC = re.compile(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?( ?%)?")

Row = Mapping[str, Any] | Sequence[Any]


def cells_of(
    rows: Iterable[Row], columns: Sequence[str] | None
) -> tuple[list[list[Any]], Sequence[str] | None]:
    """The cells of a table, row by row, and the names of its columns or None.

    Rows are dictionaries, or sequences in the order of `columns`. Without `columns`, dictionaries
    give all their keys, and sequences have no names.

    Raises:
        ValueError: if a row's length is not that of the others or of `columns`.
    """
    rows = list(rows)
    if columns is None and rows and isinstance(rows[0], Mapping):
        columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [_cells(row, columns) for row in rows]
    width = len(columns) if columns is not None else len(cells[0]) if cells else 0
    for number, row in enumerate(cells):
        if len(row) != width:
            raise ValueError(f"row {number} has {len(row)} cells instead of {width}: {row}.")
    return cells, columns


def _cells(row: Row, columns: Sequence[str] | None) -> list[Any]:
    if isinstance(row, Mapping):
        return [row.get(column) for column in columns or row]
    return list(row)


def format_value(value: Any) -> str:
    """Text of one value: 14158 as 14,158, 0.23061 as 0.231, True as yes, None and NaN as a dash."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _format_float(value)
    return str(value)


def format_column(values: Sequence[Any]) -> list[str]:
    """Texts of values below each other: numbers of one kind get the same number of decimals."""
    values = [v.item() if isinstance(v, np.generic) else v for v in values]
    known = [v for v in values if v is not None]
    decimals = None
    if known and all(isinstance(v, float) for v in known):
        decimals = _decimals([v for v in known if math.isfinite(v)])
    if decimals is None:
        return [format_value(v) for v in values]
    return [
        f"{v:,.{decimals}f}" if v is not None and math.isfinite(v) else format_value(v)
        for v in values
    ]


def _format_float(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value and abs(value) < 1e-4:
        return f"{value:.2e}"
    decimals = max(0, 2 - _magnitude(value)) if value else 0
    while decimals and round(value, decimals - 1) == value:
        decimals -= 1
    return f"{value:,.{decimals}f}"


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _decimals(values: Sequence[float]) -> int | None:
    """Decimals that show three digits of the largest and two of the smallest; None if too many."""
    sizes = [_magnitude(v) for v in values if v]
    if not sizes:
        return 0
    decimals = max(0, 2 - max(sizes), 1 - min(sizes))
    while decimals and all(round(v, decimals - 1) == round(v, decimals) for v in values):
        decimals -= 1
    return decimals if max(0, max(sizes)) + 1 + decimals <= MAX_DIGITS else None


def is_numeric(texts: Sequence[str]) -> bool:
    """Whether most of a column reads as numbers, so that it is aligned to the right."""
    known = [text for text in texts if text not in (MISSING, "-", "")]
    return 2 * sum(bool(NUMERIC.fullmatch(text)) for text in known) > len(known)
