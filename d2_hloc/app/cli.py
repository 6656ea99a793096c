"""The d2-hloc command: arguments -> options -> one function, which alone loads what is heavy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from d2_hloc import __version__
from d2_hloc.app.arguments import (
    add_compress_arguments,
    add_dense_arguments,
    add_device_argument,
    add_extract_arguments,
    add_localize_arguments,
    add_match_arguments,
    add_model_arguments,
    add_pair_arguments,
    extract_configuration,
    localize_configuration,
    model_configuration,
    options_of,
    pair_configuration,
)
from d2_hloc.app.command import as_asked, quiet_colmap, run_command
from d2_hloc.core.described import commented_yaml
from d2_hloc.core.devices import use_device
from d2_hloc.features.options import CompressionOptions, ExtractionOptions
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.mvs.options import DenseOptions
from d2_hloc.network.weights.catalogue import PUBLISHED
from d2_hloc.sfm.options import Localize, PairMatchingOptions, Reconstruct

Configure = Callable[[argparse.Namespace], Any]
CONFIGURED = {
    "pair": PairMatchingOptions,
    "reconstruct": Reconstruct,
    "triangulate": Reconstruct,
    "localize": Localize,
    "dense": DenseOptions,
    "extract": ExtractionOptions,
    "match": MatchingOptions,
}
WITH_RECORD = "pair", "reconstruct", "triangulate", "localize"
SERVED = "demo", "reconstruct", "triangulate", "localize", "dense"
COMPUTING = (*SERVED, "pair", "extract", "match")
EXIT_CODES = """exit codes: 0 all is done; 1 something cannot be used, which one sentence says;
2 wrong arguments; 130 stopped by Ctrl-C or SIGTERM, and the same command goes on from there"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a problem is one sentence, and 1 is returned."""
    args = build_parser().parse_args(arguments)
    is_verbose = getattr(args, "verbose", False)
    return run_command("d2-hloc", lambda: load_and_run(args), is_verbose)


def load_and_run(args: argparse.Namespace) -> None:
    """Make the options of the arguments, and only then load what does the work."""
    conf = args.configure(args)
    if args.work is None:
        return
    with as_asked(args):
        module, _, function = args.work.partition(".")
        work = getattr(import_module(f"d2_hloc.app.commands.{module}"), function)
        quiet_colmap(args.verbose, args.quiet)
        if getattr(args, "engine", "local") == "local":  # a cluster's workers have their own
            use_device(getattr(args, "device", "auto"))
        with serving(args):
            record = work(conf, args)
    if getattr(args, "json", False) and record is not None:
        print(Path(record).read_text())


@contextmanager
def serving(args: argparse.Namespace) -> Iterator[None]:
    """Serve the run's live view meanwhile, where --serve asks for it."""
    if not getattr(args, "serve", False):
        yield
        return
    live = import_module("d2_hloc.app.live")  # what draws models is loaded
    with live.live_view(args):
        yield


def build_parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    parser = argparse.ArgumentParser(
        prog="d2-hloc",
        description="D2-Net local features: models from photos, poses from models.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"d2-hloc {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    for command in commands.choices.values():
        if "--help-all" not in command._option_string_actions:  # --help shows all there is
            command.add_argument("--help-all", action="help", help=argparse.SUPPRESS)
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
    usage = " ".join(["d2-hloc", name, "[OPTIONS]", *(path.upper() for path in paths)])
    parser = commands.add_parser(name, help=text, description=text, usage=usage)
    parser.set_defaults(command=name, work=work, configure=configure)
    for path in paths:
        parser.add_argument(path, type=Path, metavar=path.upper())
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--quiet", action="store_true", help="no progress and no tables")
    text = "COLMAP's log and ours in full, and where in the code an error came from"
    amount.add_argument("--verbose", action="store_true", help=text)
    if name in COMPUTING:
        add_device_argument(parser)
    if name in SERVED:
        text = "show the run in a browser of this machine while it goes on; the address is printed"
        parser.add_argument("--serve", action="store_true", help=text)
    if name in WITH_RECORD:
        text = "print the run's record (run.json), and all else to the standard error"
        parser.add_argument("--json", action="store_true", help=text)
    return parser


def _demo(commands: argparse._SubParsersAction) -> None:
    text = "Render a scene, reconstruct it, localize views that were kept out, show true errors."
    parser = _command(commands, "demo", "demo.run_demo_command", text)
    parser.add_argument("output", type=Path, nargs="?", default=Path("d2-hloc-demo"))


def _pair(commands: argparse._SubParsersAction) -> None:
    text = "Match two photos: a picture, a report with both over each other, matches as CSV."
    paths, work = ("image0", "image1"), "pair.run_pair"
    parser = _command(commands, "pair", work, text, *paths, configure=pair_configuration)
    text = "folder of the results (d2-hloc-pair/IMAGE0-IMAGE1)"
    parser.add_argument("output", type=Path, nargs="?", metavar="OUTPUT", help=text)
    add_pair_arguments(parser)


def _reconstruct(commands: argparse._SubParsersAction) -> None:
    text = "Photos in, a COLMAP model out."
    paths, work = ("images", "output"), "models.run_reconstruct"
    parser = _command(commands, "reconstruct", work, text, *paths, configure=model_configuration)
    add_model_arguments(parser, has_poses=False)


def _triangulate(commands: argparse._SubParsersAction) -> None:
    text = "New points for a COLMAP model, at its own poses and intrinsics."
    paths, work = ("model", "images", "output"), "models.run_triangulate"
    parser = _command(commands, "triangulate", work, text, *paths, configure=model_configuration)
    add_model_arguments(parser, has_poses=True)


def _localize(commands: argparse._SubParsersAction) -> None:
    text = "Camera poses of query images in a model that reconstruct or triangulate made."
    paths, work = ("model", "queries", "output"), "models.run_localize"
    parser = _command(commands, "localize", work, text, *paths, configure=localize_configuration)
    add_localize_arguments(parser)


def _dense(commands: argparse._SubParsersAction) -> None:
    text = "A model's depth maps, dense cloud and, if asked for, mesh."
    paths, configure = ("model", "output"), partial(options_of, cls=DenseOptions)
    parser = _command(commands, "dense", "dense.run_dense", text, *paths, configure=configure)
    add_dense_arguments(parser)


def _export(commands: argparse._SubParsersAction) -> None:
    text = "A model and its images in the form that another program reads."
    parser = _command(commands, "export", "export.run_export", text, "model", "output")
    targets = "splatting", "nerfstudio", "openmvs", "kapture", "hloc", "bundler"
    text = "the program"
    parser.add_argument("--for", dest="target", choices=targets, required=True, help=text)
    parser.add_argument("--images", type=Path, help="folder of the model's images, if not ours")
    text = "longest edge of undistorted images, pixels (as it is)"
    parser.add_argument("--max-image-size", type=int, default=-1, metavar="N", help=text)
    text = "masks for nerfstudio and openmvs, name.jpg.png, black is ignored (those of the model)"
    parser.add_argument("--masks", type=Path, help=text)
    text = "wholly transparent pixels of an image are ignored"
    parser.add_argument("--mask-alpha", action="store_true", help=text)


def _make_training_scene(commands: argparse._SubParsersAction) -> None:
    text = "A model with depth maps, as 'dense' makes them, -> a data set to train with."
    paths = ("model", "depth", "output")
    parser = _command(
        commands, "make-training-scene", "dense.run_make_training_scene", text, *paths
    )
    parser.add_argument("--images", type=Path, help="folder of images (beside the model)")
    parser.add_argument("--name", default="0000", help="of the scene, where OUTPUT has several")


def _frames(commands: argparse._SubParsersAction) -> None:
    text = (
        "A video -> photographs: one of every N frames. ffmpeg reads it, or PyAV (pip install av)."
    )
    parser = _command(commands, "frames", "frames.run_frames", text, "video", "output")
    parser.add_argument(
        "--every", type=int, default=10, metavar="N", help="frames a photograph (10)"
    )
    text = "take the sharpest of every N, not the first"
    parser.add_argument("--sharpest", action="store_true", help=text)


def _extract(commands: argparse._SubParsersAction) -> None:
    text = "A folder of images -> features.h5 in hloc's format."
    paths, work = ("images", "output"), "steps.run_extract"
    parser = _command(commands, "extract", work, text, *paths, configure=extract_configuration)
    add_extract_arguments(parser)


def _compress(commands: argparse._SubParsersAction) -> None:
    text = "Descriptors of features.h5 in fewer numbers and bytes, for hloc as well."
    paths, configure = ("features", "output"), partial(options_of, cls=CompressionOptions)
    parser = _command(commands, "compress", "steps.run_compress", text, *paths, configure=configure)
    add_compress_arguments(parser)


def _match(commands: argparse._SubParsersAction) -> None:
    text = "Pairs and features.h5 -> matches.h5 in hloc's format."
    paths, configure = ("pairs", "features", "output"), partial(options_of, cls=MatchingOptions)
    parser = _command(commands, "match", "steps.run_match", text, *paths, configure=configure)
    add_match_arguments(parser)


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


def _compare(commands: argparse._SubParsersAction) -> None:
    text = "A page of several runs side by side: numbers, times, options, models in one view."
    parser = _command(commands, "compare", "compare.run_compare", text)
    parser.usage = "d2-hloc compare [OPTIONS] OUT OUT ..."
    parser.add_argument("outputs", type=Path, nargs="+", metavar="OUT", help="of a run")
    page = Path("d2-hloc-compare.html")
    parser.add_argument("--page", type=Path, default=page, help=f"file to write ({page})")


def _doctor(commands: argparse._SubParsersAction) -> None:
    text = "Print versions, devices, threads, weights, free disk and what is missing."
    _command(commands, "doctor", "doctor.run_doctor", text)


def _config(commands: argparse._SubParsersAction) -> None:
    text = "Write a commented YAML file of all of a command's options, to change and --config."
    parser = commands.add_parser("config", help=text, description=text)
    parser.add_argument("command", choices=tuple(CONFIGURED))
    parser.set_defaults(work=None, configure=print_configuration)


def print_configuration(args: argparse.Namespace) -> None:
    """Run d2-hloc config."""
    heading = f"d2-hloc {args.command} ... --config FILE; what is left out has its default"
    print(commented_yaml(CONFIGURED[args.command], heading), end="")


def _completion(commands: argparse._SubParsersAction) -> None:
    text = "Print a shell's completion of this command; its first lines say where to put it."
    parser = commands.add_parser("completion", help=text, description=text)
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    parser.set_defaults(work=None, configure=print_completion)


def print_completion(args: argparse.Namespace) -> None:
    """Run d2-hloc completion."""
    import shtab  # of no use to any other command

    print(shtab.complete(build_parser(), shell=args.shell))


# In the order of --help.
COMMANDS = (
    *(
        _demo,
        _pair,
        _frames,
        _reconstruct,
        _triangulate,
        _localize,
        _dense,
        _export,
        _make_training_scene,
    ),
    *(_extract, _compress, _match, _merge, _weights, _compare, _doctor, _config, _completion),
)


if __name__ == "__main__":
    sys.exit(main())
