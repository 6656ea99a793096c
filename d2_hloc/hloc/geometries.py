"""Two-view geometries as hloc writes them, with the configuration that COLMAP asks for.

hloc's triangulation writes inlier matches alone. COLMAP from 4.0 on leaves out geometries whose
configuration is undefined: models have no points, and what is localized in them is wrong.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

WRITERS = "import_matches", "geometric_verification"  # of hloc.triangulation
UNDEFINED, DEGENERATE, CALIBRATED = 0, 1, 2  # COLMAP's configurations
MODULES = "triangulation", "reconstruction"  # of hloc, that hold them


def configure_geometries() -> None:
    """Have hloc's writers of geometries say that these are of calibrated cameras.

    Nothing happens where hloc lacks them, as its older versions do, or where they are wrapped.
    """
    for name in MODULES:
        if importlib.util.find_spec(f"hloc.{name}") is None:
            continue
        try:
            module = importlib.import_module(f"hloc.{name}")
        except ImportError:  # of something that only this module needs
            continue
        for writer in WRITERS:
            _wrap(module, writer)


def _wrap(module: ModuleType, name: str) -> None:
    writer = getattr(module, name, None)
    if writer is None or hasattr(writer, "writes_configurations"):
        return
    if "db" in inspect.signature(writer).parameters:
        setattr(module, name, _with_configurations(writer))


def _with_configurations(writer: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(writer)

    @functools.wraps(writer)
    def write(*arguments: Any, **more: Any) -> Any:
        given = signature.bind(*arguments, **more)
        given.arguments["db"] = ConfiguringDatabase(given.arguments["db"])
        return writer(*given.args, **given.kwargs)

    vars(write)["writes_configurations"] = True
    return write


class ConfiguringDatabase:
    """A pycolmap Database that gives geometries without a configuration one as they are written."""

    def __init__(self, database: Any) -> None:
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def write_two_view_geometry(self, image_id0: int, image_id1: int, geometry: Any) -> None:
        """Write a geometry: of calibrated cameras if it has matches, otherwise degenerate."""
        if int(geometry.config) == UNDEFINED:
            has_matches = len(geometry.inlier_matches) > 0
            geometry.config = type(geometry.config)(CALIBRATED if has_matches else DEGENERATE)
        self._database.write_two_view_geometry(image_id0, image_id1, geometry)
