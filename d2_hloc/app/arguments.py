"""Arguments that several commands share, and the options that they stand for."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import get_args

from d2_hloc.core import config
from d2_hloc.features.options import CompressionOptions, ExtractionOptions
from d2_hloc.matching.options import METHODS, MatchingOptions, PairsOptions
from d2_hloc.mvs.options import DenseOptions
from d2_hloc.network.options import D2NetOptions
from d2_hloc.sfm.cameras.options import CameraSharing
from d2_hloc.sfm.options import MATCHING, NEAREST, Localize, Reconstruct

FEATURES = tuple(MATCHING)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how a model is made."""
    add_extraction_arguments(parser)
    parser.add_argument("--config", type=Path, help="YAML with the options; arguments win over it")
    parser.add_argument("--pairs", help=f"{', '.join(METHODS)}, or a file of image pairs")
    text = "model, or file of poses, that pairs by covisibility or poses are chosen by"
    parser.add_argument("--reference", type=Path, help=text)
    add_matching_arguments(parser)
    parser.add_argument("--refinement", choices=("on", "off"), help="sub-pixel keypoints")
    add_truth_argument(parser)


def add_extraction_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose and limit the features."""
    parser.add_argument("--feature", choices=FEATURES)
    parser.add_argument("--weights", help="d2_ots (bundled), a name to download, or a checkpoint")
    parser.add_argument("--resize-max", type=int, help="longest edge in pixels (1600)")
    parser.add_argument("--max-keypoints", type=int, help="the best of an image (all)")


def add_matching_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how two images are matched."""
    text = "auto (the default): what was measured best for the feature"
    parser.add_argument("--matcher", choices=("auto", "nearest", "lightglue"), help=text)
    text = "ratio threshold of nearest neighbours; 1 for none"
    parser.add_argument("--ratio", type=float, help=text)


def add_intrinsics_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument of known cameras."""
    parser.add_argument("--intrinsics", type=Path, help="lines of 'name MODEL w h params...'")


def add_camera_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of cameras: known ones, and how others are guessed."""
    add_intrinsics_argument(parser)
    text = "which images without known intrinsics one camera took (auto: by size and EXIF)"
    parser.add_argument("--cameras", choices=get_args(CameraSharing), help=text)
    text = "COLMAP's model of cameras without known intrinsics (SIMPLE_RADIAL)"
    parser.add_argument("--camera-model", help=text)


def add_truth_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument of the ground truth."""
    parser.add_argument(
        "--ground-truth",
        type=Path,
        help="lines of 'name qw qx qy qz tx ty tz', or the challenge's calibration_*.h5",
    )


def add_shard_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for a part of the work, or for a cluster that does all of it."""
    text = "do the i-th of n shards, i from 1 to n, or from 0 to n - 1; then d2-hloc merge"
    parser.add_argument("--shard", metavar="i/n", help=text)
    add_engine_arguments(parser)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which machines do the work."""
    text = "what extracts and matches: this process, or the workers of a Ray cluster"
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help=text)
    text = "the cluster: auto (the default), host:port, ray://host:port, local (a new one, here)"
    parser.add_argument("--address", help=text)
    parser.add_argument("--worker-cpus", type=int, help="CPUs and threads of a worker (1)")


def model_configuration(args: argparse.Namespace) -> Reconstruct:
    """The YAML's options, or the defaults, with the arguments over them."""
    conf = config.load(Reconstruct, args.config) if args.config else Reconstruct()
    intrinsics = getattr(args, "intrinsics", None)  # a model that is given has its own
    extraction = given_extraction(conf.extraction, args)
    pairs = given_pairs(conf.pairs, args.pairs)
    if args.reference is not None:
        pairs = dataclasses.replace(pairs, reference=args.reference)
    mapping = conf.reconstruction
    if (camera_model := getattr(args, "camera_model", None)) is not None:
        mapping = dataclasses.replace(mapping, camera_model=camera_model)
    return dataclasses.replace(
        conf,
        extraction=extraction,
        pairs=pairs,
        matching=given_matching(conf.matching, extraction.feature, args),
        refinement=conf.refinement.switched(args.refinement),
        reconstruction=mapping,
        intrinsics=intrinsics or conf.intrinsics,
        cameras=getattr(args, "cameras", None) or conf.cameras,
    )


def reconstruct_configuration(args: argparse.Namespace) -> Reconstruct:
    """Options of d2-hloc reconstruct."""
    conf = model_configuration(args)
    if args.mapper:
        mapping = dataclasses.replace(conf.reconstruction, mapper=args.mapper)
        conf = dataclasses.replace(conf, reconstruction=mapping)
    return conf


def localize_configuration(args: argparse.Namespace) -> Localize:
    """Options of d2-hloc localize."""
    conf = config.load(Localize, args.config) if args.config else Localize()
    if args.matcher not in (None, conf.matching.matcher):
        conf = dataclasses.replace(conf, matching=MatchingOptions(matcher=args.matcher))
    return dataclasses.replace(
        conf,
        pairs=given_pairs(conf.pairs, args.pairs),
        refinement=conf.refinement.switched(args.refinement),
        intrinsics=args.intrinsics or conf.intrinsics,
        cameras=args.cameras or conf.cameras,
        camera_model=args.camera_model or conf.camera_model,
    )


def dense_configuration(args: argparse.Namespace) -> DenseOptions:
    """Options of d2-hloc dense."""
    options = config.load(DenseOptions, args.config) if args.config else DenseOptions()
    given = {"max_image_size": args.max_image_size, "backend": args.backend}
    options = dataclasses.replace(options, **{k: v for k, v in given.items() if v is not None})
    if args.mesh:
        options = dataclasses.replace(options, mesh=dataclasses.replace(options.mesh, enabled=True))
    return options


def extract_configuration(args: argparse.Namespace) -> ExtractionOptions:
    """Options of d2-hloc extract."""
    return given_extraction(ExtractionOptions(), args)


def match_configuration(args: argparse.Namespace) -> MatchingOptions:
    """Options of d2-hloc match."""
    return MatchingOptions(matcher=args.matcher or "nearest", ratio_threshold=args.ratio)


def compress_configuration(args: argparse.Namespace) -> CompressionOptions:
    """Options of d2-hloc compress."""
    return CompressionOptions(
        dimensions=args.dimensions, dtype=args.dtype, projection=args.projection
    )


def given_matching(
    options: MatchingOptions | None, feature: str, args: argparse.Namespace
) -> MatchingOptions | None:
    """Options with the arguments that were given; None is the feature's own rule.

    Raises:
        ValueError: for arguments that do not go together.
    """
    if args.matcher == "lightglue":
        if args.ratio is not None:
            raise ValueError("--ratio is of --matcher nearest; leave one of them out.")
        return options if _is_by(options, "lightglue") else MatchingOptions(matcher="lightglue")
    if args.ratio is not None:
        return MatchingOptions(ratio_threshold=args.ratio if args.ratio != 1 else None)
    if args.matcher == "nearest" and not _is_by(options, "nearest"):
        return NEAREST.get(feature, MatchingOptions())
    return options


def _is_by(options: MatchingOptions | None, matcher: str) -> bool:
    return options is not None and options.matcher == matcher


def given_extraction(options: ExtractionOptions, args: argparse.Namespace) -> ExtractionOptions:
    """Options with the arguments that were given."""
    network = {"weights": args.weights, "max_keypoints": args.max_keypoints}
    given = {k: v for k, v in network.items() if v is not None}
    d2net: D2NetOptions = dataclasses.replace(options.d2net, **given)
    changes = {"feature": args.feature, "resize_max": args.resize_max}
    given = {k: v for k, v in changes.items() if v is not None}
    if args.max_keypoints is not None:
        given["sift"] = dataclasses.replace(options.sift, max_keypoints=args.max_keypoints)
    return dataclasses.replace(options, d2net=d2net, **given)


def given_pairs(options: PairsOptions, argument: str | None) -> PairsOptions:
    """Options with the argument --pairs, a method's name or else a file."""
    if argument is None:
        return options
    if argument in METHODS:
        return dataclasses.replace(options, method=argument, file=None)
    return dataclasses.replace(options, file=Path(argument))
