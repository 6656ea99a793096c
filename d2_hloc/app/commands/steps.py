"""Steps on their own: extract, compress, match, merge; and weights to download."""

from __future__ import annotations

import argparse

from d2_hloc.app.commands.common import fetch_weights
from d2_hloc.features.compression import compress
from d2_hloc.features.extraction import extract
from d2_hloc.features.on_cluster import extract_on
from d2_hloc.features.options import CompressionOptions, ExtractionOptions
from d2_hloc.features.projection import learn_projection, save_projection
from d2_hloc.files.merging import merge
from d2_hloc.files.provenance import file_sha256
from d2_hloc.files.ray import cluster_of, shard_of
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.on_cluster import match_on
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.matching.pairs import read_pairs
from d2_hloc.network.weights.download import download_weights


def run_extract(options: ExtractionOptions, args: argparse.Namespace) -> None:
    """Run d2-hloc extract."""
    cluster = cluster_of(args)
    fetch_weights(options, args)
    if cluster is None:
        print(extract(options, args.images, args.output, shard=shard_of(args)).path)
    else:
        print(extract_on(cluster, options, args.images, args.output).path)


def run_compress(options: CompressionOptions, args: argparse.Namespace) -> None:
    """Run d2-hloc compress."""
    if options.projection is not None and not options.projection.exists():
        save_projection(options.projection, learn_projection(args.features))
    print(compress(options, args.features, args.output).path)


def run_match(options: MatchingOptions, args: argparse.Namespace) -> None:
    """Run d2-hloc match."""
    pairs, cluster = read_pairs(args.pairs), cluster_of(args)
    if cluster is None:
        print(match(options, pairs, args.features, args.output, shard=shard_of(args)).path)
    else:
        print(match_on(cluster, options, pairs, args.features, args.output).path)


def run_merge(_: None, args: argparse.Namespace) -> None:
    """Run d2-hloc merge."""
    print(merge(args.output, args.link))


def run_weights(_: None, args: argparse.Namespace) -> None:
    """Run d2-hloc weights."""
    path = download_weights(args.name, args.sha256)
    print(f"{path}\nSHA-256 {file_sha256(path)}")
