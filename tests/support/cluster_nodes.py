"""A Ray cluster of several nodes on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import d2_hloc

NODE = {"object_store_memory": 80 << 20, "include_dashboard": False}
PATHS = (Path(d2_hloc.__file__).parents[1], Path(__file__).parent)  # what workers import from


@contextmanager
def nodes_of_one_cpu(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A head, which does no work, and `count` nodes by their ids."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, PATHS)))
    utilities = pytest.importorskip("ray.cluster_utils")
    head = utilities.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
    try:
        nodes = [head.add_node(num_cpus=1, **NODE) for _ in range(count)]
        yield head, {node.node_id: node for node in nodes}
    finally:
        head.shutdown()


@contextmanager
def connected(head: Any) -> Iterator[None]:
    """One connection for several steps: workers live as long as it does."""
    import ray

    ray.init(head.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
