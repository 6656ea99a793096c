"""Fixtures of all tests. zlib comes before pycolmap: the other order aborts the process."""

import copy
import shutil
import zlib  # noqa: F401 - before pycolmap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from browser import Browser
from made_once import made_once
from pretended_device import placed_on, pretended_gpu
from small_run import SmallRun, write_scene

if TYPE_CHECKING:  # the package is imported late, so that --check-shapes comes before it
    from d2_hloc.network.backbone import Backbone

DEVICES = "cpu", "cuda", "mps", "pretended"
DTYPES = "float32", "float64", "bfloat16", "float16"
SHAPED = ("core", "network", "features", "matching", "refinement", "mvs", "training")  # rooms
SHARED = Path(__file__).parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare --check-shapes, --device and --dtype."""
    text = "check every argument and result against its annotation, shapes included"
    parser.addoption("--check-shapes", action="store_true", help=text)
    text = "what the numeric tests compute on; pretended: a GPU that is none, on the processor"
    parser.addoption("--device", choices=DEVICES, default="cpu", help=text)
    text = "numbers that the numeric tests which take any compute with"
    parser.addoption("--dtype", choices=DTYPES, default="float32", help=text)


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


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device that numeric tests compute on, by --device."""
    name = request.config.getoption("--device")
    return torch.device("cuda", 0) if name == "pretended" else torch.device(name)


@pytest.fixture(scope="session")
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """The numbers that numeric tests compute with, where their code takes any, by --dtype."""
    return getattr(torch, request.config.getoption("--dtype"))


@pytest.fixture(scope="module")
def on_device(request: pytest.FixtureRequest, device: torch.device) -> Iterator[None]:
    """Let tensors that a module's tests make be on the device, where nothing else is said."""
    from d2_hloc.core.devices import use_device

    with ExitStack() as stack:
        if request.config.getoption("--device") == "pretended":
            stack.enter_context(pretended_gpu())
        if device.type != "cpu":
            stack.enter_context(device)
            use_device(device.type)
            stack.callback(use_device, "auto")
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, as in processes that tests start: sums of more round in another way."""
    from d2_hloc.core.threads import one_thread_an_operation

    with one_thread_an_operation():
        yield


@pytest.fixture(scope="session")
def whole_photo() -> torch.Tensor:
    """A photograph that scikit-image ships, on the processor."""
    from skimage import data

    image = torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255
    return image[:, 7:242, 100:413].contiguous()


@pytest.fixture(scope="module")
def photo(request: pytest.FixtureRequest, whole_photo: torch.Tensor) -> torch.Tensor:
    """A photograph, 3 x 235 x 313: odd sizes find what even ones hide. Where numbers are tested."""
    return placed_on(device_of(request), whole_photo)


@pytest.fixture(scope="session")
def bundled_backbone() -> "Backbone":
    """The trunk with the bundled weights, on the processor."""
    from d2_hloc.network.d2net import D2Net

    return D2Net().backbone


@pytest.fixture(scope="module")
def backbone(request: pytest.FixtureRequest, bundled_backbone: "Backbone") -> "Backbone":
    """The trunk with the bundled weights, where numbers are tested."""
    return placed_on(device_of(request), copy.deepcopy(bundled_backbone))


def device_of(request: pytest.FixtureRequest) -> str:
    """Name of the device of a module's tests: the processor, but of those that take `on_device`."""
    return request.config.getoption("--device") if "on_device" in request.fixturenames else "cpu"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's rendered scene; tests that change something copy it first."""
    from d2_hloc.app.scene.demo import write_demo

    return made_once(tmp_path_factory, "demo", write_demo)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """Four rendered views and their reconstruction; tests that change something copy it first."""
    from d2_hloc.app import cli

    scene = made_once(tmp_path_factory, "small_scene", write_scene)
    run = SmallRun(shutil.copytree(scene, tmp_path_factory.mktemp("small") / "scene"))
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
