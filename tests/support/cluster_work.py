"""Steps for a cluster's workers that take their time and note what they did.

Run as a program it is a driver: ADDRESS IMAGES OUTPUT LOG.
"""

import os
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from d2_hloc.features.extraction import extract
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files import staged_h5
from d2_hloc.files.merging import merge
from d2_hloc.files.ray import Cluster, run_shards
from d2_hloc.files.shards import Shard
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.network.options import D2NetOptions

EXTRACTION = ExtractionOptions(d2net=D2NetOptions(max_keypoints=30))
MATCHING = MatchingOptions()
COUNT = 4  # shards
SECONDS = 0.25  # of rest after a record, for a kill to come in between


def extract_noting(images, output, log, shard):
    """A shard of extract()."""
    with noting(log, shard):
        extract(EXTRACTION, images, output, shard=shard)


def match_noting(pairs, features, output, log, shard):
    """A shard of match()."""
    with noting(log, shard):
        match(MATCHING, pairs, features, output, shard=shard)


@contextmanager
def noting(log, shard):
    """Every record goes to disk at once, and then into the log."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    add, seconds = Staged.add, staged_h5.PART_SECONDS

    def add_and_note(staged, key, record):
        add(staged, key, record)
        with Path(log).open("a") as file:
            file.write(f"{node} {os.getpid()} {shard.index} {key}\n")
        time.sleep(SECONDS)

    Staged.add, staged_h5.PART_SECONDS = add_and_note, -1.0
    try:
        yield
    finally:
        Staged.add, staged_h5.PART_SECONDS = add, seconds


def notes(log):
    """(node, process, shard, key) of each record, in order of time."""
    if not log.exists():
        return []
    lines = [line.split() for line in log.read_text().split("\n")[:-1]]
    return [(node, int(pid), Shard(int(index), COUNT), key) for node, pid, index, key in lines]


def run(address, work):
    """The work's shards on the cluster."""
    sizes = dict.fromkeys(Shard.all(COUNT), 1)
    run_shards(Cluster(address=address), work, sizes, "test", "shard")


if __name__ == "__main__":
    torch.set_num_threads(1)
    images, output, log = map(Path, sys.argv[2:])
    run(sys.argv[1], partial(extract_noting, images, output, log))
    merge(output)
