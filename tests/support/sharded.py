"""A command in shards, as an array of jobs would run it, and on a cluster that is this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hdf5 import contents

from d2_hloc.features import on_cluster as extraction_on_cluster
from d2_hloc.files import ray
from d2_hloc.files.merging import merge
from d2_hloc.matching import on_cluster as matching_on_cluster

Run = Callable[..., int]  # the command with further arguments; its exit status


def run_all_shards(run: Run, folder: Path, count: int = 2) -> None:
    """Features and matches of a folder in shards, merged after each; the rest is left."""
    for name in ("features.h5", "matches.h5"):
        for k in range(count):
            assert run("--shard", f"{k + 1}/{count}") == 0
        assert not (folder / name).exists()
        merge(folder / name)


def assert_same_data(output: Path, whole: Path) -> None:
    """The features and matches of both folders are equal, but for when they were made."""
    for name in ("features.h5", "matches.h5"):
        assert contents(output / name) == contents(whole / name)


def cluster_here(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Let clusters do their shards one after the other in this process.

    Returns:
        A list that grows by what was shared out: unit and count.
    """
    asked: list[tuple[str, int]] = []

    def in_turn(cluster: ray.Cluster, work: Any, sizes: Any, desc: str, unit: str) -> None:
        asked.append((unit, sum(sizes.values())))
        for shard in sizes:
            work(shard)

    monkeypatch.setattr(ray, "run_shards", in_turn)
    monkeypatch.setattr(extraction_on_cluster, "IMAGES", 2)
    monkeypatch.setattr(matching_on_cluster, "PAIRS", 2)
    return asked
