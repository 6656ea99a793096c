"""Shards of a step on the nodes of a Ray cluster.

Ray is an optional part, `pip install d2_hloc[ray]`, which is imported when a cluster is asked for.
All nodes must see the same files by the same paths: workers read and write them in place, and
nothing but the work's arguments goes through Ray.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from d2_hloc.core.ranges import THREADS, check_ranges
from d2_hloc.files.lock import Busy
from d2_hloc.files.shards import MOST, Shard, is_finished, shard_count, shard_path

logger = logging.getLogger(__name__)

RETRIES = 4  # of a shard whose worker died; more, and the shard itself may be what kills them
BUSY_SECONDS = 60.0  # for which a worker that was given up can still hold its shard
CONNECT_SECONDS = 10.0

Work = Callable[[Shard], object]


class ClusterError(ValueError):
    """A cluster that cannot be used; the text says which and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray cluster, and what one of its workers takes.

    `address` is auto (the cluster that this machine is in), host:port, ray://host:port, or local
    (a new one, of this machine alone). A worker computes with `cpus` threads, and takes `gpus`;
    for None, one where the cluster has any.
    """

    address: str = "auto"
    cpus: int = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        check_ranges(self, cpus=THREADS, gpus=(0, 1024))


Engine = Cluster | Shard | None  # what makes a step: a cluster, a shard of it here, or all of it


def shard_of(args: argparse.Namespace) -> Shard | None:
    """Shard that --shard names; None where it is not given."""
    return None if args.shard is None else Shard.parse(args.shard)


def cluster_of(args: argparse.Namespace) -> Cluster | None:
    """Cluster that --engine ray and its arguments ask for; None for the local engine.

    Raises:
        ValueError: for arguments that do not go together.
    """
    given = {"address": args.address, "cpus": args.worker_cpus}
    given = {name: value for name, value in given.items() if value is not None}
    if args.engine == "local":
        if given:
            raise ValueError("--address and --worker-cpus are for --engine ray; give that too.")
        return None
    if getattr(args, "shard", None) is not None or getattr(args, "stage", None) is not None:
        raise ValueError("--engine ray makes the shards itself; leave --shard and --stage out.")
    if args.device == "mps":
        raise ValueError("--device mps is of one machine; leave it out with --engine ray.")
    gpus = {"cpu": 0.0, "cuda": 1.0}.get(args.device)  # each worker's; auto is by the cluster
    return Cluster(**given, gpus=gpus)


def engine_of(args: argparse.Namespace) -> Engine:
    """The cluster or the shard that arguments ask for; None is this process, for all of it.

    Raises:
        ValueError: for arguments that do not go together.
    """
    return cluster_of(args) or shard_of(args)


def run_shards(
    cluster: Cluster, work: Work, sizes: Mapping[Shard, int], desc: str, unit: str
) -> None:
    """Call work(shard) for each shard, on whichever worker is free; sizes are for the progress.

    `work` must take up a shard where it was left: that of a worker or node that died is given to
    another. What it raises is raised here, and ends the others.

    Raises:
        ClusterError: if Ray is not installed, no cluster answers, or a shard's workers keep dying.
    """
    ray = _import_ray()
    with (
        _connected(ray, cluster),
        tqdm(total=sum(sizes.values()), desc=desc, unit=unit) as progress,
    ):
        submit = _submitter(ray, cluster, work)
        for shard in _finished(ray, submit, list(sizes)):
            progress.update(sizes[shard])


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray
    except ImportError as error:
        raise ClusterError("--engine ray needs Ray: pip install 'd2_hloc[ray]'.") from error
    return ray


@contextmanager
def _connected(ray: Any, cluster: Cluster) -> Iterator[None]:
    """Connected to the cluster, unless the process is already connected to one."""
    if ray.is_initialized():
        yield
        return
    try:
        _connect(ray, cluster)
        yield
    finally:
        ray.shutdown()


def _connect(ray: Any, cluster: Cluster) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    options = {"include_dashboard": False} if cluster.address == "local" else {}
    try:
        _check_answers(cluster.address)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR", **options)
    except Exception as error:  # Ray has no common type of what can be wrong here
        raise ClusterError(
            f"--address {cluster.address}: no Ray cluster can be used there "
            f"({_first_line(error)}); start one with 'ray start --head', or give local."
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process without a word


def _check_answers(address: str) -> None:
    """Ray itself goes on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _submitter(ray: Any, cluster: Cluster, work: Work) -> Callable[[Shard], Any]:
    """Function that starts work(shard) on the cluster; its result says when that is done."""
    gpus = cluster.gpus
    if gpus is None:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
    needed = {"CPU": cluster.cpus, "GPU": gpus}
    if not any(_has(node, needed) for node in ray.nodes()):
        logger.warning(
            "no node of the cluster has %s CPUs, %s GPUs; waiting for one", cluster.cpus, gpus
        )
    as_task = ray.remote(  # max_calls: by default a process on a GPU would end after one shard
        num_cpus=cluster.cpus, num_gpus=gpus, max_retries=0, max_calls=0
    )
    task, kept, folder = as_task(_work), ray.put(work), Path.cwd()
    return lambda shard: task.remote(kept, shard, folder, cluster.cpus)


def _has(node: dict[str, Any], needed: dict[str, float]) -> bool:
    return node["Alive"] and all(node["Resources"].get(k, 0) >= n for k, n in needed.items())


def _work(work: Work, shard: Shard, folder: Path, threads: int) -> None:
    """Do a shard in a worker, as the process that asked for it would do it."""
    if not folder.is_dir():
        raise ClusterError(
            f"{folder}: is not there on {socket.gethostname()}; the nodes of a cluster must see "
            "the same files by the same paths."
        )
    os.chdir(folder)
    import torch  # takes a second, and only workers need it

    torch.set_num_threads(threads)
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            work(shard)
            return
        except Busy:
            if time.monotonic() > until:
                raise
            time.sleep(1)


def _finished(ray: Any, submit: Callable[[Shard], Any], shards: Sequence[Shard]) -> Iterator[Shard]:
    """Shards as they are done; those whose workers died are begun again."""
    running = {submit(shard): shard for shard in shards}
    losses: Counter[Shard] = Counter()
    causes: dict[Shard, Exception] = {}
    try:
        while running:
            ended, _ = ray.wait(list(running))
            for reference in ended:
                shard = running.pop(reference)
                cause = _death(ray, reference)
                if cause is None:
                    yield shard
                    continue
                losses[shard] += 1
                if losses[shard] > RETRIES:
                    causes[shard] = cause
                else:
                    logger.warning("a worker died; shard %s is begun again", shard)
                    running[submit(shard)] = shard
    finally:
        for reference in running:
            ray.cancel(reference)  # which keeps what is done
    for shard, error in causes.items():  # after the others
        raise ClusterError(
            f"shard {shard}: {RETRIES + 1} workers in turn died at it ({_first_line(error)}). "
            "Look for an image that is too large for a worker's memory, then run again."
        )


def _death(ray: Any, reference: Any) -> Exception | None:
    """Cause of a worker's death; None if it came to its end. What it raised is raised."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise getattr(error, "cause", None) or error from None
    except ray.exceptions.RayError as error:
        return error
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def run_in_shards(
    cluster: Cluster, work: Work, output: Path, items: int, a_shard: int, unit: str
) -> list[Shard]:
    """Make the shards of a file, as many as it was begun with."""
    count = shard_count(output) or min(-(-items // a_shard), MOST)
    sizes = {shard: len(shard.of(range(items))) for shard in Shard.all(count)}
    run_shards(cluster, work, sizes, f"{work.func.__name__.strip('_')} on the cluster", unit)
    unseen = [shard for shard in sizes if not is_finished(output, shard)]
    if unseen:
        raise ClusterError(
            f"{shard_path(output, unseen[0])}: was written, but not here; the nodes of a cluster "
            "must see the same files by the same paths."
        )
    return list(sizes)
