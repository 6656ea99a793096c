"""The live view of a run: a page, its state as JSON, and the figure of the model as it grows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tqdm import tqdm

from d2_hloc.core.text import read_json_file
from d2_hloc.files.colmap import is_model, read_model
from d2_hloc.files.outputs import Outputs
from d2_hloc.reports.model import draw_model
from d2_hloc.reports.page import live_page

NOTHING = b"null"


@dataclass
class RunView:
    """A run as it can be seen from outside: by its files, and by the progress bars of this process.

    `models` are outputs whose model is shown, those of the run itself first.
    """

    title: str
    outputs: Outputs
    models: Sequence[Outputs]
    started: float = field(default_factory=monotonic)
    _drawn: tuple[str, bytes] = ("", NOTHING)  # the model's version and figure

    def page(self) -> bytes:
        """The page, which asks for the rest again and again."""
        return live_page(self.title, str(self.outputs.folder)).encode()

    def state(self) -> bytes:
        """Stages that are done, progress bars, and which model there is, as JSON."""
        model = self.newest_model()
        return json.dumps(
            {
                "seconds": monotonic() - self.started,
                "stages": self.stages(),
                "bars": list(running_bars()),
                "model": "" if model is None else version_of(model),
            }
        ).encode()

    def stages(self) -> dict[str, float]:
        """Seconds that each finished stage took; none where there is no record yet."""
        try:
            found = dict(read_json_file(self.outputs.run_record)["timings"])
            return {str(stage): float(seconds) for stage, seconds in found.items()}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def newest_model(self) -> Path | None:
        """Folder of the model that was written last, of the first outputs that have one."""
        for outputs in self.models:
            found = [folder for folder in outputs.growing_models() if is_model(folder)]
            if found:
                return max(found, key=modified)
        return None

    def model(self) -> bytes:
        """Figure of the newest model as JSON; of a model that is being written, the one before."""
        folder = self.newest_model()
        if folder is not None and version_of(folder) != self._drawn[0]:
            version = version_of(folder)
            try:
                figure = draw_model(read_model(folder))
            except (OSError, ValueError):
                return self._drawn[1]
            figure.layout.uirevision = "the reader's view stays"
            self._drawn = version, str(figure.to_json()).encode()
        return self._drawn[1]


def running_bars() -> Iterator[dict[str, Any]]:
    """Progress bars of this process: name, unit, what is done of how much, and seconds left."""
    with tqdm.get_lock():
        bars = [bar.format_dict for bar in list(getattr(tqdm, "_instances", ()))]
    for bar in bars:
        done, total, elapsed = bar["n"], bar["total"], bar["elapsed"]
        is_known = bool(total and done and elapsed)
        yield {
            "name": bar["prefix"],
            "unit": bar["unit"],
            "done": done,
            "total": total,
            "left": elapsed / done * max(0, total - done) if is_known else None,
        }


def version_of(folder: Path) -> str:
    """Text that changes when the model in a folder does."""
    return f"{folder.parent.name}/{folder.name} {modified(folder)}"


def modified(folder: Path) -> int:
    """Time of a folder's newest file, nanoseconds; 0 where it is gone."""
    try:
        return max((path.stat().st_mtime_ns for path in folder.iterdir()), default=0)
    except OSError:
        return 0
