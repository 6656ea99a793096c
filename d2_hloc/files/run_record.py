"""run.json: what a run was asked for, with what it was made, what it found and how long it took."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from d2_hloc.core.cache import give_memory_back
from d2_hloc.core.text import read_json_file
from d2_hloc.files.atomic import (
    clear_unfinished,
    disk_full_in_a_sentence,
    refuse_links,
    write_atomically,
)
from d2_hloc.files.lock import lock_folder
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.provenance import check_configuration

logger = logging.getLogger(__name__)

OTHER_VERSION = (
    "%s: was made by version %s, this is %s; what is done stays, choose another output to make all "
    "of it anew."
)
PACKAGES = ("d2_hloc", "torch", "pycolmap", "numpy", "h5py")


class RunRecord:
    """The record of one output folder, written after every stage; a resumed run goes on with it.

    No other process has a record of the folder while this one lives, unless it is `shared`: by
    the jobs that make shards, which note in it what they were asked for and no more.

    Raises:
        ConfigurationChanged: if the folder was made with another configuration.
        ValueError: if it was made by something else, another run is at work in it, or a link is in
            the place of what is written in place.
    """

    def __init__(
        self,
        output: Path,
        configuration: dict[str, Any],
        further: Sequence[Path] = (),
        shared: bool = False,
    ) -> None:
        """`further` are results beside those that Outputs knows by itself."""
        self.outputs = Outputs(output)
        self.path = self.outputs.run_record
        self._is_shared = shared
        if shared:
            output.mkdir(parents=True, exist_ok=True)
        else:
            self._lock = lock_folder(output)
            clear_unfinished(output)
        self.counts: dict[str, Any] = {}
        self.timings: dict[str, float] = {}
        self.scores: dict[str, Any] = {}
        self.configuration = json.loads(json.dumps(configuration))
        self.done: dict[str, Any] = {}
        if self.path.is_file():
            self._resume()
        else:
            _refuse_foreign(self.outputs, further)
        for path in (*self.outputs.databases, self.outputs.dense, self.outputs.exported):
            refuse_links(path)
        if shared and not self.path.exists():
            self._write()

    def _resume(self) -> None:
        try:
            found = read_json_file(self.path)
            made_by = dict(found["configuration"])
            self.timings, self.done = dict(found["timings"]), dict(found["done"])
            self.counts = dict(found["counts"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: is not the record of a run; delete it.") from error
        made_with = dict(found.get("versions") or {}).get("d2_hloc")
        if made_with != version("d2_hloc"):
            logger.warning(OTHER_VERSION, self.outputs.folder, made_with, version("d2_hloc"))
        remedy = f"Choose another output; its {self.outputs.features.name} may be copied there."
        check_configuration(self.outputs.folder, made_by, self.configuration, remedy)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of a stage, and give its memory back; a resumed stage's times add up.

        Raises:
            DiskFull: if the stage ran out of space.
        """
        start = perf_counter()
        with disk_full_in_a_sentence(self.outputs.folder):
            yield
        give_memory_back()
        spent = self.timings.get(stage, 0.0) + perf_counter() - start
        self.timings[stage] = round(spent, 2)
        self.write()

    def is_done(self, stage: str, inputs: Any = True) -> bool:
        """True if this stage was finished, from these inputs."""
        return self.done.get(stage) == json.loads(json.dumps(inputs))

    def mark_done(self, stage: str, inputs: Any = True) -> None:
        """Note that a stage's output is whole."""
        self.done[stage] = json.loads(json.dumps(inputs))
        self.write()

    def write(self) -> None:
        """Write run.json, whole or not at all; a shared one stays as it was begun."""
        if not self._is_shared:
            self._write()

    def _write(self) -> None:
        values = {
            "configuration": self.configuration,
            "versions": _versions(),
            "counts": self.counts,
            "timings": self.timings,
            "scores": self.scores,
            "done": self.done,
        }
        write_atomically(self.path, json.dumps(values, indent=1).encode())


@cache
def _versions() -> dict[str, str]:
    """Versions of what takes part: looked up once, since a record is written after each stage."""
    return {p: version(p) for p in PACKAGES} | {"python": platform.python_version()}


def _refuse_foreign(outputs: Outputs, further: Sequence[Path]) -> None:
    """Files that no run of ours made are never written over, nor deleted."""
    for path in (*outputs.results, *further):
        if path.exists() or path.is_symlink():
            raise ValueError(
                f"{outputs.folder}: holds a {path.name} that this program did not make; choose "
                "another output."
            )


def read_made_by(path: Path) -> dict[str, Any]:
    """The configuration that a run.json holds.

    Raises:
        ValueError: if it cannot be read or is not the record of a run.
    """
    try:
        return dict(read_json_file(path)["configuration"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is not the record of a run.") from error
