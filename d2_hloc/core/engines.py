"""Arguments that say which machines do the work, and the end of a command that did its part.

files.ray.engine_of() reads the arguments.
"""

from __future__ import annotations

import argparse


class ShardDone(Exception):
    """A command that makes a shard has made it, and ends; the text says what comes next."""


def add_shard_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for a part of the work, or for a cluster that does all of it."""
    text = "i-th of n shards, from 1 or 0; then d2-hloc merge"
    parser.add_argument("--shard", metavar="i/n", help=text)
    add_engine_arguments(parser)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which machines do the work."""
    text = "this process (local), or the workers of a Ray cluster"
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help=text)
    text = "the cluster: auto (the default), host:port, ray://host:port, local (a new one, here)"
    parser.add_argument("--address", help=text)
    text = "CPUs and threads of a worker (1)"
    parser.add_argument("--worker-cpus", type=int, metavar="N", help=text)
