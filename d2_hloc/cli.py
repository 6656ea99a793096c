"""The d2-hloc command: arguments -> options -> one function."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from d2_hloc import __version__, config, weights
from d2_hloc.command import run_command
from d2_hloc.compression import CompressionOptions, compress
from d2_hloc.d2net import D2NetOptions
from d2_hloc.demo import demo
from d2_hloc.extraction import ExtractionOptions, extract
from d2_hloc.localization import read_poses
from d2_hloc.matching import MatchingOptions
from d2_hloc.pair_matching import match
from d2_hloc.pairing import PairsOptions
from d2_hloc.pairs import read_pairs
from d2_hloc.presentation import present_localization, present_model
from d2_hloc.projection import learn, save_projection
from d2_hloc.query_runs import Localize, localize_queries
from d2_hloc.runs import MATCHING, Reconstruct, reconstruct, triangulate_known

FEATURES = tuple(MATCHING)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a problem is one sentence, and 1 is returned."""
    args = build_parser().parse_args(arguments)
    return run_command("d2-hloc", lambda: args.run(args))


def build_parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    parser = argparse.ArgumentParser(
        prog="d2-hloc", description="D2-Net local features: models from photos, poses from models."
    )
    parser.add_argument("--version", action="version", version=f"d2-hloc {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _demo,
        _reconstruct,
        _triangulate,
        _localize,
        _extract,
        _compress,
        _match,
        _weights,
    ):
        add(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
    *paths: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    for path in paths:
        parser.add_argument(path, type=Path, metavar=path.upper())
    return parser


def _demo(commands: argparse._SubParsersAction) -> None:
    text = "Render a scene, reconstruct it, localize views that were kept out, show true errors."
    parser = _command(commands, "demo", lambda a: demo(a.output), text)
    parser.add_argument("output", type=Path, nargs="?", default=Path("d2-hloc-demo"))


def _reconstruct(commands: argparse._SubParsersAction) -> None:
    text = "Photos in, a COLMAP model out."
    parser = _command(commands, "reconstruct", run_reconstruct, text, "images", "output")
    _add_model_arguments(parser)
    _add_intrinsics_argument(parser)
    parser.add_argument("--mapper", choices=("incremental", "global", "hierarchical"))


def _triangulate(commands: argparse._SubParsersAction) -> None:
    text = "New points for a COLMAP model, at its own poses and intrinsics."
    paths = ("model", "images", "output")
    parser = _command(commands, "triangulate", run_triangulate, text, *paths)
    _add_model_arguments(parser)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    _add_extraction_arguments(parser)
    parser.add_argument("--config", type=Path, help="YAML with the options; arguments win over it")
    parser.add_argument("--pairs", help="exhaustive, retrieval, or a file of image pairs")
    parser.add_argument("--ratio", type=float, help="ratio threshold of matching; 1 for none")
    parser.add_argument("--refinement", choices=("on", "off"), help="sub-pixel keypoints")
    _add_truth_argument(parser)


def _add_extraction_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--feature", choices=FEATURES)
    parser.add_argument("--weights", help="d2_ots (bundled), a name to download, or a checkpoint")
    parser.add_argument("--resize-max", type=int, help="longest edge in pixels (1600)")
    parser.add_argument("--max-keypoints", type=int, help="the best of an image (all)")


def _add_intrinsics_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--intrinsics", type=Path, help="lines of 'name MODEL w h params...'")


def _add_truth_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ground-truth",
        type=Path,
        help="lines of 'name qw qx qy qz tx ty tz', or the challenge's calibration_*.h5",
    )


def _localize(commands: argparse._SubParsersAction) -> None:
    text = "Camera poses of query images in a model that reconstruct or triangulate made."
    parser = _command(commands, "localize", run_localize, text, "model", "queries", "output")
    parser.add_argument("--config", type=Path, help="YAML with the options; arguments win over it")
    parser.add_argument("--pairs", help="exhaustive, retrieval, or a file of 'query image' lines")
    parser.add_argument("--refinement", choices=("on", "off"), help="sub-pixel keypoints")
    _add_intrinsics_argument(parser)
    _add_truth_argument(parser)


def _extract(commands: argparse._SubParsersAction) -> None:
    text = "A folder of images -> features.h5 in hloc's format."
    parser = _command(commands, "extract", run_extract, text, "images", "output")
    _add_extraction_arguments(parser)


def _compress(commands: argparse._SubParsersAction) -> None:
    text = "Descriptors of features.h5 in fewer numbers and bytes, for hloc as well."
    parser = _command(commands, "compress", run_compress, text, "features", "output")
    parser.add_argument("--dimensions", type=int, help="numbers of a descriptor (as they are)")
    parser.add_argument("--dtype", choices=("float16", "int8"), default="int8", help="(int8)")
    parser.add_argument(
        "--projection",
        type=Path,
        help="its file; learned from FEATURES where there is none yet (bundled, of d2_ots)",
    )


def _match(commands: argparse._SubParsersAction) -> None:
    text = "Pairs and features.h5 -> matches.h5 in hloc's format."
    parser = _command(commands, "match", run_match, text, "pairs", "features", "output")
    parser.add_argument("--ratio", type=float, help="ratio threshold (none)")


def _weights(commands: argparse._SubParsersAction) -> None:
    text = "Download published weights, check and keep them."
    parser = _command(commands, "weights", run_weights, text)
    parser.add_argument("name", choices=tuple(weights.DOWNLOADS))
    parser.add_argument("--sha256", help="digest to hold the file to, or its beginning")


def run_reconstruct(args: argparse.Namespace) -> None:
    """d2-hloc reconstruct."""
    conf = model_configuration(args)
    if args.mapper:
        mapping = dataclasses.replace(conf.reconstruction, mapper=args.mapper)
        conf = dataclasses.replace(conf, reconstruction=mapping)
    check_truth(args)
    present_model(reconstruct(conf, args.images, args.output), args.ground_truth)


def run_triangulate(args: argparse.Namespace) -> None:
    """d2-hloc triangulate."""
    conf = model_configuration(args)
    check_truth(args)
    run = triangulate_known(conf, args.model, args.images, args.output)
    present_model(run, args.ground_truth)


def run_localize(args: argparse.Namespace) -> None:
    """d2-hloc localize."""
    conf = config.load(Localize, args.config) if args.config else Localize()
    conf = dataclasses.replace(
        conf,
        pairs=pairs_options(conf.pairs, args.pairs),
        refinement=conf.refinement.switched(args.refinement),
        intrinsics=args.intrinsics or conf.intrinsics,
    )
    check_truth(args)
    run = localize_queries(conf, args.model, args.queries, args.output)
    present_localization(run, args.ground_truth)


def run_extract(args: argparse.Namespace) -> None:
    """d2-hloc extract."""
    print(extract(extraction_options(ExtractionOptions(), args), args.images, args.output))


def run_compress(args: argparse.Namespace) -> None:
    """d2-hloc compress."""
    options = CompressionOptions(
        dimensions=args.dimensions, dtype=args.dtype, projection=args.projection
    )
    if args.projection is not None and not args.projection.exists():
        save_projection(args.projection, learn(args.features))
    print(compress(options, args.features, args.output))


def run_match(args: argparse.Namespace) -> None:
    """d2-hloc match."""
    options = MatchingOptions(ratio_threshold=args.ratio)
    print(match(options, read_pairs(args.pairs), args.features, args.output))


def run_weights(args: argparse.Namespace) -> None:
    """d2-hloc weights."""
    path = weights.download(args.name, args.sha256)
    print(f"{path}\nSHA-256 {weights.digest(path)}")


def check_truth(args: argparse.Namespace) -> None:
    """A mistake in the ground truth should not cost the run."""
    if args.ground_truth is not None:
        read_poses(args.ground_truth)


def model_configuration(args: argparse.Namespace) -> Reconstruct:
    """The YAML's options, or the defaults, with the arguments over them."""
    conf = config.load(Reconstruct, args.config) if args.config else Reconstruct()
    intrinsics = getattr(args, "intrinsics", None)  # a model that is given has its own
    matching = conf.matching
    if args.ratio is not None:
        matching = MatchingOptions(ratio_threshold=args.ratio if args.ratio < 1 else None)
    return dataclasses.replace(
        conf,
        extraction=extraction_options(conf.extraction, args),
        pairs=pairs_options(conf.pairs, args.pairs),
        matching=matching,
        refinement=conf.refinement.switched(args.refinement),
        intrinsics=intrinsics or conf.intrinsics,
    )


def extraction_options(options: ExtractionOptions, args: argparse.Namespace) -> ExtractionOptions:
    """Options with the arguments that were given."""
    network = {"weights": args.weights, "max_keypoints": args.max_keypoints}
    given = {k: v for k, v in network.items() if v is not None}
    d2net: D2NetOptions = dataclasses.replace(options.d2net, **given)
    changes = {"feature": args.feature, "resize_max": args.resize_max}
    given = {k: v for k, v in changes.items() if v is not None}
    if args.max_keypoints is not None:
        given["sift"] = dataclasses.replace(options.sift, max_keypoints=args.max_keypoints)
    return dataclasses.replace(options, d2net=d2net, **given)


def pairs_options(options: PairsOptions, argument: str | None) -> PairsOptions:
    """--pairs: a method's name, or else a file."""
    if argument is None:
        return options
    if argument in ("exhaustive", "retrieval"):
        return dataclasses.replace(options, method=argument)
    return dataclasses.replace(options, file=Path(argument))


if __name__ == "__main__":
    sys.exit(main())
