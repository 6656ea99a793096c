"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from d2_hloc.reports.values import Row, cells_of, is_numeric


def print_table(rows: Iterable[Row], columns: Sequence[str] | None = None) -> None:
    """Print an empty line and the table of text_table()."""
    print("\n" + text_table(rows, columns))


def text_table(rows: Iterable[Row], columns: Sequence[str] | None = None) -> str:
    """A table in lines of text, its columns below each other and numbers to the right.

    Rows are as a report's: dictionaries, or sequences in the order of `columns`; without
    `columns`, dictionaries give their keys and sequences have no header.

    Raises:
        ValueError: if a row's length is not that of the others or of `columns`.
    """
    cells, columns = cells_of(rows, columns)
    lines = [[_text(value) for value in row] for row in cells]
    # "11 of 11" is a number too.
    is_right = [is_numeric([t.partition(" of ")[0] for t in c]) for c in zip(*lines, strict=True)]
    if columns is not None:
        lines.insert(0, [str(column) for column in columns])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    is_right = is_right or [False] * len(widths)  # a header alone
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, is_right, strict=True)
        ).rstrip()
        for line in lines
    )


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)
