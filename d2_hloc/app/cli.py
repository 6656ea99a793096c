"""The d2-hloc command: arguments -> options -> one function, which alone loads what is heavy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from d2_hloc import __version__
from d2_hloc.app.arguments import (
    add_camera_arguments,
    add_engine_arguments,
    add_extraction_arguments,
    add_model_arguments,
    add_shard_arguments,
    add_truth_argument,
    compress_configuration,
    dense_configuration,
    extract_configuration,
    localize_configuration,
    match_configuration,
    model_configuration,
    reconstruct_configuration,
)
from d2_hloc.app.command import quiet_colmap, run_command
from d2_hloc.mvs.options import STAGES
from d2_hloc.network.weights.catalogue import PUBLISHED

Configure = Callable[[argparse.Namespace], Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a problem is one sentence, and 1 is returned."""
    args = build_parser().parse_args(arguments)
    return run_command("d2-hloc", lambda: load_and_run(args))


def load_and_run(args: argparse.Namespace) -> None:
    """Make the options of the arguments, and only then load what does the work."""
    conf = args.configure(args)
    module, _, function = args.work.partition(".")
    work = getattr(import_module(f"d2_hloc.app.commands.{module}"), function)
    quiet_colmap()
    work(conf, args)


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
    work: str,
    text: str,
    *paths: str,
    configure: Configure = lambda _: None,
) -> argparse.ArgumentParser:
    """Add a command whose work is a function of a module in commands/, 'module.function'."""
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(work=work, configure=configure)
    for path in paths:
        parser.add_argument(path, type=Path, metavar=path.upper())
    return parser


def _demo(commands: argparse._SubParsersAction) -> None:
    text = "Render a scene, reconstruct it, localize views that were kept out, show true errors."
    parser = _command(commands, "demo", "demo.run_demo_command", text)
    parser.add_argument("output", type=Path, nargs="?", default=Path("d2-hloc-demo"))


def _reconstruct(commands: argparse._SubParsersAction) -> None:
    text = "Photos in, a COLMAP model out."
    parser = _command(
        commands,
        "reconstruct",
        "models.run_reconstruct",
        text,
        "images",
        "output",
        configure=reconstruct_configuration,
    )
    add_model_arguments(parser)
    add_camera_arguments(parser)
    parser.add_argument("--mapper", choices=("incremental", "global", "hierarchical"))
    add_engine_arguments(parser)


def _triangulate(commands: argparse._SubParsersAction) -> None:
    text = "New points for a COLMAP model, at its own poses and intrinsics."
    paths = ("model", "images", "output")
    parser = _command(
        commands,
        "triangulate",
        "models.run_triangulate",
        text,
        *paths,
        configure=model_configuration,
    )
    add_model_arguments(parser)
    add_engine_arguments(parser)


def _localize(commands: argparse._SubParsersAction) -> None:
    text = "Camera poses of query images in a model that reconstruct or triangulate made."
    parser = _command(
        commands,
        "localize",
        "models.run_localize",
        text,
        "model",
        "queries",
        "output",
        configure=localize_configuration,
    )
    parser.add_argument("--config", type=Path, help="YAML with the options; arguments win over it")
    parser.add_argument(
        "--weights", help="D2-Net's, other than the model's: its points are triangulated anew"
    )
    parser.add_argument("--pairs", help="exhaustive, retrieval, or a file of 'query image' lines")
    parser.add_argument("--matcher", choices=("nearest", "lightglue"), help="(the config's)")
    parser.add_argument("--refinement", choices=("on", "off"), help="sub-pixel keypoints")
    add_camera_arguments(parser)
    add_truth_argument(parser)


def _dense(commands: argparse._SubParsersAction) -> None:
    text = "A model's depth maps, dense cloud and, if asked for, mesh."
    parser = _command(
        commands, "dense", "dense.run_dense", text, "model", "output", configure=dense_configuration
    )
    parser.add_argument("--config", type=Path, help="YAML with the options; arguments win over it")
    parser.add_argument("--images", type=Path, help="folder of the model's images, if not ours")
    parser.add_argument("--max-image-size", type=int, help="longest edge in pixels (1200)")
    parser.add_argument("--backend", choices=("auto", "torch", "colmap"))
    parser.add_argument("--mesh", action="store_true", help="Poisson reconstruction of the cloud")
    text = "with --shard: prepare once, all maps, all consistency, then this command without them"
    parser.add_argument("--stage", choices=STAGES, help=text)
    add_shard_arguments(parser)


def _make_training_scene(commands: argparse._SubParsersAction) -> None:
    text = "A model with depth maps, as 'dense' makes them, -> a data set to train with."
    paths = ("model", "depth", "output")
    parser = _command(
        commands, "make-training-scene", "dense.run_make_training_scene", text, *paths
    )
    parser.add_argument("--images", type=Path, help="folder of images (beside the model)")
    parser.add_argument("--name", default="0000", help="of the scene, where OUTPUT has several")


def _extract(commands: argparse._SubParsersAction) -> None:
    text = "A folder of images -> features.h5 in hloc's format."
    parser = _command(
        commands,
        "extract",
        "steps.run_extract",
        text,
        "images",
        "output",
        configure=extract_configuration,
    )
    add_extraction_arguments(parser)
    add_shard_arguments(parser)


def _compress(commands: argparse._SubParsersAction) -> None:
    text = "Descriptors of features.h5 in fewer numbers and bytes, for hloc as well."
    parser = _command(
        commands,
        "compress",
        "steps.run_compress",
        text,
        "features",
        "output",
        configure=compress_configuration,
    )
    parser.add_argument("--dimensions", type=int, help="numbers of a descriptor (as they are)")
    parser.add_argument("--dtype", choices=("float16", "int8"), default="int8", help="(int8)")
    parser.add_argument(
        "--projection",
        type=Path,
        help="its file; learned from FEATURES where there is none yet (bundled, of d2_ots)",
    )


def _match(commands: argparse._SubParsersAction) -> None:
    text = "Pairs and features.h5 -> matches.h5 in hloc's format."
    parser = _command(
        commands,
        "match",
        "steps.run_match",
        text,
        "pairs",
        "features",
        "output",
        configure=match_configuration,
    )
    parser.add_argument("--matcher", choices=("nearest", "lightglue"), help="(nearest)")
    parser.add_argument("--ratio", type=float, help="ratio threshold (none)")
    add_shard_arguments(parser)


def _merge(commands: argparse._SubParsersAction) -> None:
    text = "The shards of features.h5 or matches.h5 -> one file."
    parser = _command(commands, "merge", "steps.run_merge", text, "output")
    text = "leave the records in the shards, and link to them"
    parser.add_argument("--link", action="store_true", help=text)


def _weights(commands: argparse._SubParsersAction) -> None:
    text = "Download published weights, check and keep them."
    parser = _command(commands, "weights", "steps.run_weights", text)
    parser.add_argument("name", choices=tuple(PUBLISHED))
    parser.add_argument("--sha256", help="digest to hold the file to, or its beginning")


if __name__ == "__main__":
    sys.exit(main())
