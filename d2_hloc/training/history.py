"""Tables of losses and measures as they come: CSV files that are only ever appended to.

A run that resumes drops what was written after the checkpoint it goes on from, and writes it again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from d2_hloc.core.text import read_text
from d2_hloc.files.atomic import write_atomically

LOSSES = ("step", "epoch", "loss", "pairs", "correspondences", "learning_rate")
VALIDATION = (
    "epoch",
    "loss",
    "accuracy",
    "detected_accuracy",
    "matching_accuracy",
    "right_matches",
    "features",
    "pairs",
)

Row = dict[str, float]


class Table:
    """A CSV file of numbers, whose first column counts up."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, tuple(columns)

    def append(self, row: Row) -> None:
        """Add a row, on disk at once."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([repr(row[name]) for name in self.columns])

    def keep_before(self, limit: int) -> None:
        """Drop the rows whose first column is `limit` or more, or that a kill cut short."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(self.columns)
        for row in self.rows():
            if row[self.columns[0]] < limit:
                writer.writerow([repr(row[name]) for name in self.columns])
        write_atomically(self.path, text.getvalue().encode())

    def rows(self) -> list[Row]:
        """All rows that are whole; counts are integers.

        Raises:
            ValueError: if the file is damaged.
        """
        if not self.path.is_file():
            return []
        try:
            lines = list(csv.reader(io.StringIO(read_text(self.path), newline="")))[1:]
            return [
                {name: _number(text) for name, text in zip(self.columns, line, strict=True)}
                for line in lines
                if len(line) == len(self.columns) and all(line)
            ]
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"{self.path}: is damaged; delete the run's folder to begin again."
            ) from error


def _number(text: str) -> float:
    return int(text) if text.lstrip("-").isdecimal() else float(text)
