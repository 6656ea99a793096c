"""Results of a long run by key, in a JSON file that a kill leaves whole."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from tqdm import tqdm

from d2_hloc.core import config
from d2_hloc.core.text import read_json_file
from d2_hloc.core.threads import in_threads
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.provenance import check_configuration

logger = logging.getLogger(__name__)

SAVE_SECONDS = 2.0  # at most this much work is lost to a kill

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class ResultStore(Generic[Result]):
    """A file of results in the making, and the configuration that makes them.

    Results are dataclasses of numbers, text and tuples; `key_of` tells one from another. `name` is
    what the file calls them. Infinite numbers are JSON's as Python writes it.

    Raises:
        ConfigurationChanged: if the file was made with another configuration.
        ValueError: if it is damaged.
    """

    def __init__(
        self,
        path: Path,
        configuration: Mapping[str, Any],
        kind: type[Result],
        key_of: Callable[[Result], Hashable],
        name: str,
        made_from: Sequence[int | str] = (),
    ) -> None:
        """`made_from` tells the inputs from others: results of others are made again."""
        self._path, self._kind, self._key_of, self._name = path, kind, key_of, name
        self._made_from = list(made_from)
        self._configuration = json.loads(json.dumps(configuration))
        self._since = time.monotonic()
        self.found: dict[Hashable, Result] = {}
        self._digests: dict[Hashable, str] = {}  # of the items of those found, where there are any
        if path.is_file():
            self._read()

    def _read(self) -> None:
        try:
            content = read_json_file(self._path)
            made_by = dict(content["configuration"])
            found = [config.from_dict(self._kind, values) for values in content[self._name]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._path}: is damaged; delete it and run again.") from error
        remedy = "Choose another output, or delete it."
        check_configuration(self._path, made_by, self._configuration, remedy)
        if content.get("made_from", []) != self._made_from:
            logger.warning(
                "%s: was made from other files than are there now; made anew.", self._path
            )
            return
        self.found = {self._key_of(result): result for result in found}
        digests = content.get("digests", [])
        if isinstance(digests, list) and len(digests) == len(found):
            self._digests = dict(zip(map(self._key_of, found), digests, strict=True))

    def complete(
        self,
        items: Mapping[Key, Item],
        make: Callable[[Item], Result],
        activity: str,
        unit: str,
        workers: int = 1,
        digest_of: Callable[[Item], str] | None = None,
    ) -> list[Result]:
        """Make the results of the items, by key, that are missing, and return those of all items.

        `digest_of` tells an item from another of its key, whose result is made again. Each is kept
        as it comes, and written with the others every few seconds, at the end, and also when the
        work is stopped. `workers` are threads; `activity` and `unit` are shown.
        """
        now = {} if digest_of is None else {key: digest_of(item) for key, item in items.items()}
        for key, digest in now.items():
            if self._digests.get(key, digest) != digest:
                del self.found[key]
        self._digests |= now
        todo = [item for key, item in items.items() if key not in self.found]
        results: Iterable[Result] = map(make, todo)
        if workers > 1:
            results = in_threads(make, todo, workers)
        show = partial(tqdm, desc=activity, unit=unit, total=len(todo), disable=not todo)
        try:
            for result in show(results):
                self._add(result)
        finally:
            self._write()
        return [self.found[key] for key in items]

    def _add(self, result: Result) -> None:
        self.found[self._key_of(result)] = result
        if time.monotonic() - self._since > SAVE_SECONDS:
            self._write()

    def _write(self) -> None:
        results = [asdict(cast(Any, result)) for result in self.found.values()]
        made_from = {"made_from": self._made_from} if self._made_from else {}
        digests = [self._digests[key] for key in self.found if key in self._digests]
        others = made_from | ({"digests": digests} if len(digests) == len(results) > 0 else {})
        content = {"configuration": self._configuration, **others, self._name: results}
        write_atomically(self._path, json.dumps(content).encode())
        self._since = time.monotonic()
