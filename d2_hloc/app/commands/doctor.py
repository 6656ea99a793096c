"""The state of an installation, for bug reports: d2-hloc doctor."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from d2_hloc.files.atomic import free_space
from d2_hloc.network.weights.catalogue import BUNDLED, PUBLISHED, cache_folder, cached_file

PACKAGES = ["d2_hloc", "torch", "torchvision", "pycolmap", "numpy", "scipy", "h5py", "pillow"]
PACKAGES += ["kornia", "poselib", "pyceres", "plotly", "matplotlib"]
OPTIONAL = {
    "hloc": "the plugin needs it: https://github.com/cvg/Hierarchical-Localization",
    "ray": "--engine ray needs it: pip install 'd2_hloc[ray]'",
}
ENOUGH = 5.0  # GB of free disk


def run_doctor(_: None, args: argparse.Namespace) -> None:
    """Run d2-hloc doctor."""
    sections = {"versions": versions, "devices": devices, "weights": weights, "disk": disk}
    missing: list[str] = []
    for name, section in sections.items():
        print(name)
        for label, text, fault in section():
            print(f"  {label:24}{text}")
            missing += [f"{label}: {fault}"] if fault else []
    print("missing" if missing else "nothing is missing")
    for fault in missing:
        print(f"  {fault}")


Finding = tuple[str, str, str]  # label, what was found, what is missing or ''


def versions() -> Iterator[Finding]:
    """Versions of Python, the system and the packages."""
    yield "python", f"{platform.python_version()} ({sys.executable})", ""
    yield "system", platform.platform(), ""
    for package in PACKAGES:
        try:
            yield package, version(package), ""
        except PackageNotFoundError:
            yield package, "not here", f"pip install {package}"
    for package, needs in OPTIONAL.items():
        is_here = find_spec(package) is not None
        yield package, "here" if is_here else f"not here; {needs}", ""


def devices() -> Iterator[Finding]:
    """Processor, threads and GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "processor", f"{platform.processor() or platform.machine()}, {cores} cores", ""
    yield "OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "not set"), ""
    try:
        torch = import_module("torch")
    except ImportError as error:
        yield "torch", "cannot be imported", str(error)
        return
    yield "torch's threads", str(torch.get_num_threads()), ""
    yield "torch's instructions", torch.backends.cpu.get_cpu_capability(), ""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(k) for k in range(count)]
    yield "CUDA", ", ".join(names) or "none; everything runs on the processor", ""
    yield "MPS", "here; --device mps" if torch.backends.mps.is_available() else "none", ""
    yield (
        "COLMAP's CUDA",
        "yes" if import_module("d2_hloc.files.colmap").pycolmap.has_cuda else "no",
        "",
    )


def weights() -> Iterator[Finding]:
    """Weights in the package and in the cache."""
    for name, path in BUNDLED.items():
        fault = "" if path.is_file() else f"{path} is gone; install the package again"
        yield name, "bundled" if not fault else "not here", fault
    for name in PUBLISHED:
        path = cached_file(name)
        yield name, str(path) if path.is_file() else f"not here; d2-hloc weights {name}", ""


def disk() -> Iterator[Finding]:
    """Free space where runs and downloads go."""
    for label, folder in (("here", Path.cwd()), ("cache", cache_folder())):
        free = free_space(folder) / 1e9
        fault = "" if free >= ENOUGH else "features of a hundred images take a gigabyte"
        yield label, f"{free:.1f} GB free on {folder}", fault
