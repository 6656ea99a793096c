"""Arguments of the commands, and the options that they stand for; nothing heavy is loaded here.

Most arguments are options of a dataclass under a short name: their type, text, range and default
are said there.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from d2_hloc.core import config
from d2_hloc.core.devices import DEVICES
from d2_hloc.core.engines import add_shard_arguments
from d2_hloc.core.option_arguments import OptionArguments, changed, given_options
from d2_hloc.features.options import CompressionOptions, ExtractionOptions
from d2_hloc.matching.options import FOR_CELLS, MATCHERS, METHODS, MatchingOptions
from d2_hloc.mvs.options import STAGES, DenseOptions
from d2_hloc.sfm.options import (
    NEAREST,
    Localize,
    PairMatchingOptions,
    Reconstruct,
    matching_of,
    matching_rule_of,
)

C = TypeVar("C")
M = TypeVar("M", Reconstruct, PairMatchingOptions)


def add_model_arguments(parser: argparse.ArgumentParser, has_poses: bool) -> None:
    """Add the arguments that say how a model is made; `has_poses`: its cameras are given."""
    options = OptionArguments(parser, Reconstruct)
    add_extraction_arguments(parser, options, "extraction.")
    add_config_argument(parser)
    parser.add_argument("--pairs", metavar="METHOD", help=f"{', '.join(METHODS)}, or a pair list")
    options.add("--reference", "pairs.reference")
    add_matching_arguments(parser)
    options.add("--refinement", "refinement.enabled")
    if not has_poses:
        options.add("--intrinsics", "intrinsics")
        options.add("--cameras", "cameras")
        options.add("--camera-model", "reconstruction.camera_model")
        options.add("--mapper", "reconstruction.mapper")
    add_truth_argument(parser)
    add_shard_arguments(parser)
    options.add_all()


def add_pair_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how two images are matched."""
    options = OptionArguments(parser, PairMatchingOptions)
    add_extraction_arguments(parser, options, "extraction.")
    add_config_argument(parser)
    add_matching_arguments(parser)
    options.add("--refinement", "refinement.enabled")
    options.add_all()


def add_localize_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how queries are localized."""
    options = OptionArguments(parser, Localize)
    add_config_argument(parser)
    text = "D2-Net's, other than the model's: its points are triangulated anew"
    parser.add_argument("--weights", help=text)
    text = "exhaustive, retrieval, or a file of 'query image' lines"
    parser.add_argument("--pairs", metavar="METHOD", help=text)
    options.add("--matcher", "matching.matcher")
    options.add("--refinement", "refinement.enabled")
    text = "folder of the model's photographs, if they were moved"
    parser.add_argument("--images", type=Path, help=text)
    options.add("--intrinsics", "intrinsics")
    options.add("--cameras", "cameras")
    options.add("--camera-model", "camera_model")
    add_mask_arguments(options)
    add_truth_argument(parser)
    add_download_argument(parser)
    add_shard_arguments(parser)
    options.add_all()


def add_dense_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of depth maps, and of the cloud and mesh made of them."""
    options = OptionArguments(parser, DenseOptions)
    add_config_argument(parser)
    parser.add_argument("--images", type=Path, help="folder of the model's images, if not ours")
    options.add("--max-image-size", "max_image_size")
    options.add("--backend", "backend")
    add_mask_arguments(options)
    given = {"action": "store_const", "const": True, "default": argparse.SUPPRESS}
    parser.add_argument("--mesh", dest="mesh.enabled", help="make a mesh of the cloud", **given)
    text = "with --shard: prepare once, all maps, all consistency, then this command without them"
    parser.add_argument("--stage", choices=STAGES, help=text)
    add_shard_arguments(parser)
    options.add_all()


def add_extract_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of extraction on its own."""
    options = OptionArguments(parser, ExtractionOptions)
    add_config_argument(parser)
    add_extraction_arguments(parser, options, "")
    add_shard_arguments(parser)
    options.add_all()


def add_match_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of matching on its own."""
    options = OptionArguments(parser, MatchingOptions)
    add_config_argument(parser)
    options.add("--matcher", "matcher")
    options.add("--ratio", "ratio_threshold")
    add_shard_arguments(parser)
    options.add_all()


def add_compress_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of compression on its own."""
    options = OptionArguments(parser, CompressionOptions)
    options.add("--dimensions", "dimensions")
    options.add("--dtype", "dtype")
    text = "its file; learned from FEATURES where there is none yet (bundled, of d2_ots)"
    options.add("--projection", "projection", text)


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add the file of options."""
    text = "YAML with the options, as 'd2-hloc config' writes it; arguments win over it"
    parser.add_argument("--config", type=Path, help=text)


def add_extraction_arguments(
    parser: argparse.ArgumentParser, options: OptionArguments, at: str
) -> None:
    """Add the arguments that choose and limit the features, whose options are `at` a place."""
    options.add("--feature", f"{at}feature")
    options.add("--weights", f"{at}d2net.weights")
    options.add("--resize-max", f"{at}resize_max")
    options.add("--value-range", f"{at}value_range")
    options.add("--rotations", f"{at}rotations")
    add_mask_arguments(options, at)
    parser.add_argument("--max-keypoints", type=int, metavar="N", help="the best of an image (all)")
    add_download_argument(parser)


def add_mask_arguments(options: OptionArguments, at: str = "") -> None:
    """Add the arguments that say which parts of images are ignored."""
    options.add("--masks", f"{at}masks.folder")
    options.add("--mask-alpha", f"{at}masks.alpha")


def add_download_argument(parser: argparse.ArgumentParser) -> None:
    """Add the leave to fetch weights."""
    text = "fetch the feature's weights, if they are published and not here"
    parser.add_argument("--download", action="store_true", help=text)


def add_matching_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how two images are matched."""
    text = "auto (the default): what was measured best for the feature"
    parser.add_argument("--matcher", choices=("auto", *MATCHERS), help=text)
    text = "ratio threshold of neighbours; 1 for none"
    parser.add_argument("--ratio", type=float, metavar="X", help=text)


def add_truth_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument of the ground truth."""
    text = "lines of 'name qw qx qy qz tx ty tz', or the challenge's calibration_*.h5"
    parser.add_argument("--ground-truth", type=Path, metavar="PATH", help=text)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add the device that all steps compute on."""
    text = "what computes: auto (the default, a GPU where there is one), or one by name"
    parser.add_argument("--device", choices=DEVICES, default="auto", help=text)


def model_configuration(args: argparse.Namespace) -> Reconstruct:
    """Options of d2-hloc reconstruct and triangulate."""
    return with_arguments(from_file(Reconstruct, args), args, given_pairs(args))


def pair_configuration(args: argparse.Namespace) -> PairMatchingOptions:
    """Options of d2-hloc pair."""
    return with_arguments(from_file(PairMatchingOptions, args), args, {})


def with_arguments(conf: M, args: argparse.Namespace, more: dict[str, Any]) -> M:
    """Options with the arguments over them; those of matching keep the feature's own rule."""
    given = given_options(args, type(conf))
    of_matching = {place: v for place, v in given.items() if place.startswith("matching.")}
    others = {place: v for place, v in given.items() if place not in of_matching}
    conf = changed(conf, given_keypoints(args, "extraction.") | more | others)
    feature = conf.extraction.feature
    matching = given_matching(conf.matching, feature, args)
    if of_matching:
        matching = matching_rule_of(feature, matching)
    return changed(dataclasses.replace(conf, matching=matching), of_matching)


def localize_configuration(args: argparse.Namespace) -> Localize:
    """Options of d2-hloc localize."""
    conf, given = from_file(Localize, args), given_options(args, Localize)
    if given.get("matching.matcher", conf.matching.matcher) != conf.matching.matcher:
        conf = dataclasses.replace(conf, matching=MatchingOptions())  # the other's do not apply
    return changed(conf, given_pairs(args) | given)


def options_of(args: argparse.Namespace, cls: type[C]) -> C:
    """Options of a command whose arguments stand for them one by one."""
    return changed(from_file(cls, args), given_options(args, cls))


def extract_configuration(args: argparse.Namespace) -> ExtractionOptions:
    """Options of d2-hloc extract."""
    conf = from_file(ExtractionOptions, args)
    return changed(conf, given_keypoints(args, "") | given_options(args, ExtractionOptions))


def from_file(cls: type[C], args: argparse.Namespace) -> C:
    """The options of the YAML file that is named, or the defaults."""
    path = getattr(args, "config", None)
    return cls() if path is None else config.load(cls, path)


def given_keypoints(args: argparse.Namespace, at: str) -> dict[str, Any]:
    """The limit of --max-keypoints, for every family of features."""
    places = "d2net.max_keypoints", "sift.max_keypoints", "kornia_keypoints"
    return {} if args.max_keypoints is None else {at + p: args.max_keypoints for p in places}


def given_pairs(args: argparse.Namespace) -> dict[str, Any]:
    """The options of --pairs, a method's name or else a file."""
    if args.pairs is None:
        return {}
    if args.pairs in METHODS:
        return {"pairs.method": args.pairs, "pairs.file": None}
    return {"pairs.file": Path(args.pairs)}


def given_matching(
    options: MatchingOptions | None, feature: str, args: argparse.Namespace
) -> MatchingOptions | None:
    """Options with the arguments that were given; None is the feature's own rule.

    Raises:
        ValueError: for arguments that do not go together.
    """
    if args.matcher == "lightglue":
        if args.ratio is not None:
            raise ValueError("--ratio is of nearest neighbours; leave one of them out.")
        return options if _is_by(options, "lightglue") else MatchingOptions(matcher="lightglue")
    threshold = None if args.ratio == 1 else args.ratio
    if args.matcher in FOR_CELLS:
        is_given = options is not None and options.matcher == args.matcher
        rule = options if options and is_given else MatchingOptions(matcher=args.matcher)
        return rule if args.ratio is None else dataclasses.replace(rule, ratio_threshold=threshold)
    if args.ratio is not None:
        rule = MatchingOptions(ratio_threshold=threshold)
        return rule if args.matcher == "nearest" else matching_of(feature, rule)
    if args.matcher == "nearest" and not _is_by(options, "nearest"):
        return NEAREST.get(feature, MatchingOptions())
    return options


def _is_by(options: MatchingOptions | None, matcher: str) -> bool:
    return options is not None and options.matcher == matcher
