"""`python -m d2_hloc.hloc <module> args...`: one of hloc's own commands, with ours registered.

    python -m d2_hloc.hloc extract_features --conf d2net --image_dir images --export_dir out
    python -m d2_hloc.hloc match_features --conf NN-mutual-d2net --features feats-d2net-ots-ss \\
        --pairs out/pairs.txt --export_dir out
    python -m d2_hloc.hloc geometric_verification --database out/database.db \\
        --pairs out/pairs.txt --features out/feats-d2net-ots-ss.h5 --matches out/MATCHES.h5
    python -m d2_hloc.hloc pipelines.Aachen.pipeline --feature d2net --dataset aachen

hloc's pipelines name the features and the matcher that they use in their code. `--feature` takes
the place of every conf of local features there, `--matcher` that of every matcher, and `--retrieval
d2net`, our features pooled over the image, that of every conf of global ones; the names of
the files that a pipeline writes are still its own. Without hloc, extract_features and
match_features are run by ourselves, with the same arguments and files. geometric_verification is
always ours: robust two-view geometry of a database's pairs, for any of hloc's features.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import runpy
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from d2_hloc.hloc import commands, plugin

logger = logging.getLogger(__name__)

OWN = {
    "extract_features": commands.extract_features,
    "match_features": commands.match_features,
}


def _geometric_verification(arguments: list[str]) -> None:
    """Run ours; no other command waits for COLMAP to load."""
    import_module("d2_hloc.hloc.geometric_verification").geometric_verification(arguments)


OURS_ALONE = {"geometric_verification": _geometric_verification}


def main(arguments: list[str]) -> int:
    """Run a command of hloc's and return the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    command, *rest = arguments
    command = command.removeprefix("hloc.")
    try:
        run(command, rest)
    except (ValueError, ImportError, OSError) as error:
        logger.debug("", exc_info=True)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def run(command: str, arguments: list[str]) -> None:
    """Run hloc.<command> with ours registered, or our own in its place where hloc is absent.

    geometric_verification, which hloc has not, is always our own.

    Raises:
        ImportError: if hloc cannot be imported and we have no such command, or hloc has none.
    """
    if command in OURS_ALONE:
        OURS_ALONE[command](arguments)
        return
    try:
        plugin.register()
    except ImportError as error:
        if command not in OWN:
            raise
        logger.warning("%s Running our own %s.", error, command)
        OWN[command](arguments)
        return
    run_hloc(command, arguments)


def run_hloc(command: str, arguments: list[str]) -> None:
    """Run hloc.<command>: its function, with our confs, or its module as a script.

    extract_features and match_features look up confs in their own modules. Run as scripts they
    would have new ones, without ours, so their functions are called. All others import those two.

    Raises:
        ImportError: if hloc has no such command.
    """
    if command in CALLED:
        CALLED[command](arguments)
        return
    name = f"hloc.{command}"
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or spec.submodule_search_locations is not None:
        raise ImportError(f"hloc has no command {command!r}.")
    if command.startswith("pipelines."):
        arguments = choose_confs(command, arguments, Path(spec.origin).read_text())
    sys.argv = [spec.origin, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def call_extract_features(arguments: list[str]) -> None:
    """Call hloc's extract_features with the arguments of its command."""
    hloc = sys.modules["hloc.extract_features"]
    given = commands.extraction_parser(hloc.confs, "superpoint_aachen").parse_args(arguments)
    hloc.main(
        hloc.confs[given.conf],
        given.image_dir,
        given.export_dir,
        as_half=given.as_half,
        **given_of(given, "image_list", "feature_path"),
    )


def call_match_features(arguments: list[str]) -> None:
    """Call hloc's match_features with the arguments of its command."""
    hloc = sys.modules["hloc.match_features"]
    parser = commands.matching_parser(hloc.confs, "superglue", "feats-superpoint-n4096-r1024")
    given = parser.parse_args(arguments)
    hloc.main(
        hloc.confs[given.conf],
        given.pairs,
        given.features,
        given.export_dir,
        **given_of(given, "matches"),
    )


def call_triangulation(arguments: list[str]) -> None:
    """Call hloc's triangulation; run as a script it would be a new module, without our changes."""
    hloc = import_module("hloc.triangulation")
    parser = argparse.ArgumentParser("triangulation")
    for name in ("sfm_dir", "reference_sfm_model", "image_dir", "pairs", "features", "matches"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--skip_geometric_verification", action="store_true")
    parser.add_argument("--min_match_score", type=float)
    parser.add_argument("--verbose", action="store_true")
    given = vars(parser.parse_args(arguments))
    given["reference_model"] = given.pop("reference_sfm_model")
    hloc.main(**{name: value for name, value in given.items() if value not in (None, False)})


CALLED = {
    "extract_features": call_extract_features,
    "match_features": call_match_features,
    "triangulation": call_triangulation,
}


def given_of(given: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Arguments that were given, of these; hloc's functions have defaults for the others."""
    return {name: value for name in names if (value := getattr(given, name)) is not None}


def choose_confs(command: str, arguments: list[str], source: str) -> list[str]:
    """Act on --feature, --matcher and --retrieval before a pipeline looks up its confs.

    The arguments that are left are returned.

    `source` is the pipeline's code, which names the confs that it takes.

    Raises:
        ValueError: if there is no such conf, or the pipeline takes none by name.
    """
    if not is_quoted(source, "--retrieval"):  # unless it is an argument of its own
        arguments = choose_retrieval(arguments)
    if is_quoted(source, "--feature"):  # likewise
        return arguments
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--feature")
    parser.add_argument("--matcher")
    given, rest = parser.parse_known_args(arguments)
    extraction, matching = sys.modules["hloc.extract_features"], sys.modules["hloc.match_features"]
    confs = extraction.confs
    local = [name for name in confs if not confs[name]["output"].startswith("global-")]
    if given.feature is not None and not any(is_quoted(source, name) for name in local):
        raise ValueError(f"{command} takes no conf of local features: --feature cannot be used.")
    if given.feature in plugin.EXTRACTORS and given.matcher is None:
        # A learned matcher knows its own descriptors only.
        given.matcher = plugin.MATCHER_OF.get(given.feature, "NN-mutual-d2net")
    substitute(extraction, local, given.feature)
    substitute(matching, list(matching.confs), given.matcher)
    return rest


def choose_retrieval(arguments: list[str]) -> list[str]:
    """Act on --retrieval; return the other arguments.

    Raises:
        ValueError: if there is no such conf.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--retrieval")
    given, rest = parser.parse_known_args(arguments)
    extraction = sys.modules["hloc.extract_features"]
    names = [n for n, conf in extraction.confs.items() if conf["output"].startswith("global-")]
    substitute(extraction, names, plugin.RETRIEVER_OF.get(given.retrieval, given.retrieval))
    return rest


def is_quoted(source: str, text: str) -> bool:
    """Tell whether code holds a text in quotes."""
    return f'"{text}"' in source or f"'{text}'" in source


def substitute(module: ModuleType, names: list[str], chosen: str | None) -> None:
    """Let the conf `chosen` be found under all of `names`."""
    if chosen is None:
        return
    if chosen not in names:
        raise ValueError(f"There is no conf {chosen!r}; known are {', '.join(names)}.")
    module.confs.update(dict.fromkeys(names, module.confs[chosen]))
    logger.info("%s: %s in place of the pipeline's own.", module.__name__, chosen)


def leave(status: int) -> None:
    """End the process, also where hloc's writing threads still wait for matches after an error."""
    sys.stdout.flush()
    sys.stderr.flush()
    others = [t for t in threading.enumerate() if t is not threading.current_thread()]
    if status and any(not thread.daemon for thread in others):
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    leave(main(sys.argv[1:]))
