"""h5py as far as types can know it: what `file[key]` holds depends on the file, not on the code."""

from typing import Any

def __getattr__(name: str) -> Any: ...
