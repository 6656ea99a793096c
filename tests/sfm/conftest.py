"""Fixtures of tests that map COLMAP's synthetic scene."""

from pathlib import Path

import pytest
from synthetic import Synthetic, synthesize

from d2_hloc.sfm.options import ReconstructionOptions


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Six images with exact matches; some modules have a scene of their own."""
    return synthesize(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="module")
def database(scene: Synthetic) -> Path:
    """The scene's matches, verified by the defaults."""
    return scene.verified_database(ReconstructionOptions())
