"""What the tests share. zlib comes before pycolmap: the other order aborts the process."""

import shutil
import zlib  # noqa: F401 - before pycolmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from browser import Browser
from small_run import SmallRun, write_scene

if TYPE_CHECKING:  # the package is imported late, so that --check-shapes comes before it
    from d2_hloc.network.backbone import Backbone

SHAPED = ("core", "network", "features", "matching", "refinement", "mvs", "training")  # rooms
SHARED = Path(__file__).parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare --check-shapes."""
    text = "check every argument and result against its annotation, shapes included"
    parser.addoption("--check-shapes", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Have beartype check the functions of the rooms that shapes travel through, from now on."""
    if config.getoption("--check-shapes"):
        from jaxtyping import install_import_hook

        install_import_hook([f"d2_hloc.{room}" for room in SHAPED], "shape_checker.checked")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, so that no process waits for another's last file."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project; tests that need it say when it is missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED}: the folder of real data and reference output is not there")
    return SHARED


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the processes that tests start: sums of more threads round in another way."""
    from d2_hloc.core.threads import one_thread_an_operation

    with one_thread_an_operation():
        yield


@pytest.fixture(scope="session")
def photo() -> torch.Tensor:
    """A photograph that scikit-image ships, 3 x 235 x 313: odd sizes find what even ones hide."""
    from skimage import data

    image = torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255
    return image[:, 7:242, 100:413].contiguous()


@pytest.fixture(scope="session")
def backbone() -> "Backbone":
    """The trunk with the bundled weights."""
    from d2_hloc.network.d2net import D2Net

    return D2Net().backbone


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """Four rendered views and their reconstruction; tests that change something copy it first."""
    from d2_hloc.app import cli

    run = write_scene(tmp_path_factory.mktemp("small"))
    assert cli.main(run.arguments(run.output)) == 0
    return run


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, for the tests of a module."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("there is no Chromium; install the package chromium to test the report in it")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    try:
        browser.attach()
        yield browser
    finally:
        browser.close()
