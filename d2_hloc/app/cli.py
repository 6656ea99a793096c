"""The d2-hloc command: arguments -> options -> one function."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from d2_hloc import __version__
from d2_hloc.app.arguments import (
    add_camera_arguments,
    add_engine_arguments,
    add_extraction_arguments,
    add_model_arguments,
    add_shard_arguments,
    add_truth_argument,
    check_truth,
    cluster_of,
    given_extraction,
    given_pairs,
    model_configuration,
    shard_of,
)
from d2_hloc.app.command import run_command
from d2_hloc.app.demo import demo
from d2_hloc.core import config
from d2_hloc.features.compression import CompressionOptions, compress
from d2_hloc.features.extraction import ExtractionOptions, extract, refuse_changed
from d2_hloc.features.on_cluster import extract_on
from d2_hloc.features.projection import MOST, learn_projection, save_projection
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import sparse_folder
from d2_hloc.files.merging import merge
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.provenance import file_sha256
from d2_hloc.files.shards import Shard
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.nearest import MatchingOptions
from d2_hloc.matching.on_cluster import match_on
from d2_hloc.matching.pairs import read_pairs
from d2_hloc.mvs.reconstruct import DenseOptions, reconstruct_dense
from d2_hloc.mvs.report import report_dense
from d2_hloc.mvs.shards import STAGES, dense_shard, reconstruct_dense_on
from d2_hloc.network.weights.catalogue import PUBLISHED
from d2_hloc.network.weights.download import download_weights
from d2_hloc.reports.localization import report_localization
from d2_hloc.reports.model import report_model
from d2_hloc.sfm.localize import (
    Localize,
    check_queries,
    find_model_source,
    localize_queries,
    triangulate_anew,
)
from d2_hloc.sfm.reconstruct import reconstruct, triangulate_known
from d2_hloc.training.make_scene import make_training_scene


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
    for add in (_demo, _reconstruct, _triangulate, _localize, _dense, _make_training_scene):
        add(commands)
    for add in (_extract, _compress, _match, _merge, _weights):
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
    add_model_arguments(parser)
    add_camera_arguments(parser)
    parser.add_argument("--mapper", choices=("incremental", "global", "hierarchical"))
    add_engine_arguments(parser)


def run_reconstruct(args: argparse.Namespace) -> None:
    """Run d2-hloc reconstruct."""
    conf = model_configuration(args)
    if args.mapper:
        mapping = dataclasses.replace(conf.reconstruction, mapper=args.mapper)
        conf = dataclasses.replace(conf, reconstruction=mapping)
    check_truth(args)
    run = reconstruct(conf, args.images, args.output, cluster_of(args))
    report_model(run, args.ground_truth)


def _triangulate(commands: argparse._SubParsersAction) -> None:
    text = "New points for a COLMAP model, at its own poses and intrinsics."
    paths = ("model", "images", "output")
    parser = _command(commands, "triangulate", run_triangulate, text, *paths)
    add_model_arguments(parser)
    add_engine_arguments(parser)


def run_triangulate(args: argparse.Namespace) -> None:
    """Run d2-hloc triangulate."""
    conf = model_configuration(args)
    check_truth(args)
    run = triangulate_known(conf, args.model, args.images, args.output, cluster_of(args))
    report_model(run, args.ground_truth)


def _localize(commands: argparse._SubParsersAction) -> None:
    text = "Camera poses of query images in a model that reconstruct or triangulate made."
    parser = _command(commands, "localize", run_localize, text, "model", "queries", "output")
    parser.add_argument("--config", type=Path, help="YAML with the options; arguments win over it")
    parser.add_argument(
        "--weights", help="D2-Net's, other than the model's: its points are triangulated anew"
    )
    parser.add_argument("--pairs", help="exhaustive, retrieval, or a file of 'query image' lines")
    parser.add_argument("--matcher", choices=("nearest", "lightglue"), help="(the config's)")
    parser.add_argument("--refinement", choices=("on", "off"), help="sub-pixel keypoints")
    add_camera_arguments(parser)
    add_truth_argument(parser)


def run_localize(args: argparse.Namespace) -> None:
    """Run d2-hloc localize."""
    conf = config.load(Localize, args.config) if args.config else Localize()
    if args.matcher not in (None, conf.matching.matcher):
        conf = dataclasses.replace(conf, matching=MatchingOptions(matcher=args.matcher))
    conf = dataclasses.replace(
        conf,
        pairs=given_pairs(conf.pairs, args.pairs),
        refinement=conf.refinement.switched(args.refinement),
        intrinsics=args.intrinsics or conf.intrinsics,
        cameras=args.cameras or conf.cameras,
        camera_model=args.camera_model or conf.camera_model,
    )
    model = args.model
    check_truth(args, is_aligned=not find_model_source(model).has_given_poses)
    if args.weights:
        check_queries(conf, find_model_source(model), args.queries, args.output)
        model = triangulate_anew(model, args.weights, Outputs(args.output).triangulated)
    run = localize_queries(conf, model, args.queries, args.output)
    report_localization(run, args.ground_truth)


def _dense(commands: argparse._SubParsersAction) -> None:
    text = "A model's depth maps, dense cloud and, if asked for, mesh."
    parser = _command(commands, "dense", run_dense, text, "model", "output")
    parser.add_argument("--config", type=Path, help="YAML with the options; arguments win over it")
    parser.add_argument("--images", type=Path, help="folder of the model's images, if not ours")
    parser.add_argument("--max-image-size", type=int, help="longest edge in pixels (1200)")
    parser.add_argument("--backend", choices=("auto", "torch", "colmap"))
    parser.add_argument("--mesh", action="store_true", help="Poisson reconstruction of the cloud")
    text = "with --shard: prepare once, all maps, all consistency, then this command without them"
    parser.add_argument("--stage", choices=STAGES, help=text)
    add_shard_arguments(parser)


def run_dense(args: argparse.Namespace) -> None:
    """Run d2-hloc dense."""
    options = config.load(DenseOptions, args.config) if args.config else DenseOptions()
    given = {"max_image_size": args.max_image_size, "backend": args.backend}
    options = dataclasses.replace(options, **{k: v for k, v in given.items() if v is not None})
    if args.mesh:
        options = dataclasses.replace(options, mesh=dataclasses.replace(options.mesh, enabled=True))
    cluster = cluster_of(args)
    given = options, sparse_folder(args.model), images_of(args), args.output
    if args.stage is not None:
        print(dense_shard(*given, args.stage, shard_of(args) or Shard(1, 1)))
        return
    if args.shard is not None:
        raise ValueError("--shard is of a --stage, maps or consistency; name that too.")
    found = reconstruct_dense(*given) if cluster is None else reconstruct_dense_on(cluster, *given)
    report_dense(found, args.output)


def images_of(args: argparse.Namespace) -> Path:
    """Folder that --images names, or that of a model of ours, which must be as it was."""
    if args.images is not None:
        return args.images
    outputs = Outputs(args.model), Outputs.of_model(args.model)
    if not any(o.run_record.is_file() for o in outputs):
        raise ValueError(f"{args.model}: does not say where its images are; name them by --images.")
    source = find_model_source(args.model)
    if source.features.is_file():
        refuse_changed(source.images, features_h5.extracted_names(source.features), source.features)
    return source.images


def _make_training_scene(commands: argparse._SubParsersAction) -> None:
    text = "A model with depth maps, as 'dense' makes them, -> a data set to train with."
    paths = ("model", "depth", "output")
    parser = _command(commands, "make-training-scene", run_make_training_scene, text, *paths)
    parser.add_argument("--images", type=Path, help="folder of images (beside the model)")
    parser.add_argument("--name", default="0000", help="of the scene, where OUTPUT has several")


def run_make_training_scene(args: argparse.Namespace) -> None:
    """Run d2-hloc make-training-scene."""
    print(make_training_scene(args.model, args.depth, args.output, args.images, args.name))


def _extract(commands: argparse._SubParsersAction) -> None:
    text = "A folder of images -> features.h5 in hloc's format."
    parser = _command(commands, "extract", run_extract, text, "images", "output")
    add_extraction_arguments(parser)
    add_shard_arguments(parser)


def run_extract(args: argparse.Namespace) -> None:
    """Run d2-hloc extract."""
    options, cluster = given_extraction(ExtractionOptions(), args), cluster_of(args)
    if cluster is None:
        print(extract(options, args.images, args.output, shard=shard_of(args)).path)
    else:
        print(extract_on(cluster, options, args.images, args.output).path)


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


def run_compress(args: argparse.Namespace) -> None:
    """Run d2-hloc compress."""
    options = CompressionOptions(
        dimensions=args.dimensions, dtype=args.dtype, projection=args.projection
    )
    if (args.dimensions or 0) > MOST:
        raise ValueError(f"dimensions must be from 1 to {MOST}, not {args.dimensions}.")
    if args.projection is not None and not args.projection.exists():
        save_projection(args.projection, learn_projection(args.features))
    print(compress(options, args.features, args.output).path)


def _match(commands: argparse._SubParsersAction) -> None:
    text = "Pairs and features.h5 -> matches.h5 in hloc's format."
    parser = _command(commands, "match", run_match, text, "pairs", "features", "output")
    parser.add_argument("--matcher", choices=("nearest", "lightglue"), help="(nearest)")
    parser.add_argument("--ratio", type=float, help="ratio threshold (none)")
    add_shard_arguments(parser)


def run_match(args: argparse.Namespace) -> None:
    """Run d2-hloc match."""
    options = MatchingOptions(matcher=args.matcher or "nearest", ratio_threshold=args.ratio)
    pairs, cluster = read_pairs(args.pairs), cluster_of(args)
    if cluster is None:
        print(match(options, pairs, args.features, args.output, shard=shard_of(args)).path)
    else:
        print(match_on(cluster, options, pairs, args.features, args.output).path)


def _merge(commands: argparse._SubParsersAction) -> None:
    text = "The shards of features.h5 or matches.h5 -> one file."
    parser = _command(commands, "merge", lambda a: print(merge(a.output, a.link)), text, "output")
    text = "leave the records in the shards, and link to them"
    parser.add_argument("--link", action="store_true", help=text)


def _weights(commands: argparse._SubParsersAction) -> None:
    text = "Download published weights, check and keep them."
    parser = _command(commands, "weights", run_weights, text)
    parser.add_argument("name", choices=tuple(PUBLISHED))
    parser.add_argument("--sha256", help="digest to hold the file to, or its beginning")


def run_weights(args: argparse.Namespace) -> None:
    """Run d2-hloc weights."""
    path = download_weights(args.name, args.sha256)
    print(f"{path}\nSHA-256 {file_sha256(path)}")


if __name__ == "__main__":
    sys.exit(main())
