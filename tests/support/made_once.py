"""Files that are made once a session, whichever of its processes asks first."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills in the first process that asks; the others wait for it.

    It belongs to all processes: tests copy what they change.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, is_whole = root / name, root / f"{name}.whole"
    with FileLock(root / f"{name}.lock"):
        if not is_whole.exists():
            folder.mkdir()
            make(folder)
            is_whole.touch()
    return folder
