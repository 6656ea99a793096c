"""Configuration of a folder of cached examples: what made them is noted beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from d2_hloc.core.text import read_json_file
from d2_hloc.files.atomic import refuse_links, write_whole
from d2_hloc.files.provenance import check_configuration


def note_configuration(folder: Path, configuration: dict[str, Any]) -> None:
    """Note what makes a folder's files, or hold it to what is noted.

    Raises:
        ConfigurationChanged: if it is something else.
        ValueError: if a link is in it.
        DiskFull: if there is no space.
    """
    refuse_links(folder)
    path = folder / "configuration.json"
    wanted = json.loads(json.dumps(configuration))
    if path.is_file():
        remedy = "Delete it or choose another output."
        check_configuration(folder, read_json_file(path), wanted, remedy)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(wanted).encode())
