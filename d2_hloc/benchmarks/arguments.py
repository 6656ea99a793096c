"""Arguments that the benchmarks' commands share, and the options that they stand for."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from d2_hloc.core import config
from d2_hloc.features import registry

C = TypeVar("C")


def benchmark_parser(doc: str | None, config_file: Path) -> argparse.ArgumentParser:
    """Make a parser of the arguments that every benchmark has; `doc` is the command's docstring."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=config_file, help="YAML with the options")
    text = "one, or several to compare; configs/hpatches.yaml names all"
    parser.add_argument("--feature", nargs="+", help=text)
    parser.add_argument("--download", action="store_true", help="fetch weights that are not here")
    return parser


def add_dataset(parser: argparse.ArgumentParser, text: str, required: bool = True) -> None:
    """Add the folder of a data set; `text` says which."""
    parser.add_argument("--dataset", type=Path, required=required, help=text)


def add_refinement(parser: argparse.ArgumentParser) -> None:
    """Add a switch of sub-pixel keypoints."""
    parser.add_argument("--refinement", choices=("on", "off"), help="sub-pixel keypoints")


def add_top_k(parser: argparse.ArgumentParser) -> None:
    """Add a limit of the number of features."""
    text = "keep so many of an image, the best scores (all)"
    parser.add_argument("--top-k", type=int, help=text)


def add_known_poses(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the poses that queries are compared with; `text` describes the file."""
    parser.add_argument("--ground-truth", type=Path, help=text)


def load_options(cls: type[C], args: argparse.Namespace) -> C:
    """Read the YAML, put the shared arguments over it, and fetch weights where that is asked for.

    Raises:
        ConfigError: for a file that does not fit.
        ValueError: for an argument that does not.
    """
    conf: Any = config.load(cls, args.config)
    if args.feature:
        conf = replace(conf, features=tuple(dict.fromkeys(args.feature)))
    if getattr(args, "refinement", None) is not None:
        conf = replace(conf, refinement=conf.refinement.switched(args.refinement))
    if getattr(args, "top_k", None) is not None:
        conf = replace(conf, extraction=replace(conf.extraction, top_k=args.top_k))
    if args.download:
        for feature in conf.features or (conf.extraction.feature,):
            registry.adapter_of(feature).download(replace(conf.extraction, feature=feature))
    return conf
