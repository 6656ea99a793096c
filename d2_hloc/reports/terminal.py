"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = tuple[str, Any]


def print_table(rows: Iterable[Row]) -> None:
    """Two columns in the terminal."""
    print()
    for name, value in rows:
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        print(f"{name:32} {text:>14}")


def print_rows(rows: Sequence[Mapping[str, Any]], num_labels: int) -> None:
    """A table in the terminal; the first columns are labels, the others numbers."""
    texts = [list(rows[0])] + [["-" if v is None else str(v) for v in r.values()] for r in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    print()
    for line in texts:
        cells = [
            cell.ljust(width) if k < num_labels else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
