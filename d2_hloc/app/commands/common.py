"""Parts of arguments that are read while a command begins: ground truth, shards, clusters."""

from __future__ import annotations

import argparse

from d2_hloc.features import registry
from d2_hloc.features.options import FeatureOptions
from d2_hloc.files.ray import Cluster
from d2_hloc.files.shards import Shard
from d2_hloc.sfm.pose_errors import check_frame
from d2_hloc.sfm.poses_file import read_poses


def check_truth(args: argparse.Namespace, is_aligned: bool = True) -> None:
    """Read the ground truth once: a mistake in it should not cost the run.

    Args:
        args: of the command.
        is_aligned: whether the model is aligned to it, rather than in its frame already.

    Raises:
        ValueError: if it cannot be read, or no model be aligned to it.
    """
    if args.ground_truth is not None:
        truth = read_poses(args.ground_truth)
        if is_aligned:
            check_frame(truth, args.ground_truth)


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


def fetch_weights(options: FeatureOptions, args: argparse.Namespace) -> None:
    """Fetch the feature's weights, if --download allows it and they are not here."""
    if args.download:
        registry.adapter_of(options.feature).download(options)
