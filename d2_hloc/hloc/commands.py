"""hloc's commands extract_features and match_features where hloc is absent.

The same arguments, confs and file names; the steps and the files are our own, which hloc reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from d2_hloc.core.names import image_name
from d2_hloc.core.text import numbered_lines
from d2_hloc.features import extraction
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.hloc.d2net_conf import d2net_options_of
from d2_hloc.hloc.matcher_conf import matching_options_of
from d2_hloc.hloc.plugin import EXTRACTORS, MATCHERS, Conf
from d2_hloc.matching import match_pairs
from d2_hloc.matching.pairs import read_pairs

# hloc's own nearest neighbours are the same rule.
MATCHERS_OF_HLOC = {
    "NN-mutual": {"output": "matches-NN-mutual", "model": {"do_mutual_check": True}},
    "NN-ratio": {
        "output": "matches-NN-mutual-ratio.8",
        "model": {"do_mutual_check": True, "ratio_threshold": 0.8},
    },
}


def extraction_parser(confs: Iterable[str], default: str) -> argparse.ArgumentParser:
    """The arguments of hloc's extract_features, with the confs that it may name."""
    parser = argparse.ArgumentParser("extract_features")
    parser.add_argument("--image_dir", type=Path, required=True)
    parser.add_argument("--export_dir", type=Path, required=True)
    parser.add_argument("--conf", default=default, choices=list(confs))
    parser.add_argument("--as_half", action="store_true", help="halve descriptors, not keypoints")
    parser.add_argument("--image_list", type=Path, help="file, or pattern of files, of names")
    parser.add_argument("--feature_path", type=Path)
    return parser


def matching_parser(confs: Iterable[str], default: str, features: str) -> argparse.ArgumentParser:
    """The arguments of hloc's match_features; `features` is the default of the features' file."""
    parser = argparse.ArgumentParser("match_features")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--export_dir", type=Path)
    parser.add_argument("--features", default=features)
    parser.add_argument("--matches", type=Path)
    parser.add_argument("--conf", default=default, choices=list(confs))
    return parser


def extract_features(arguments: list[str]) -> Path:
    """hloc's command of that name; the features file that it made."""
    given = extraction_parser(EXTRACTORS, "d2net").parse_args(arguments)
    conf = EXTRACTORS[given.conf]
    output = given.feature_path or given.export_dir / f"{conf['output']}.h5"
    output.parent.mkdir(parents=True, exist_ok=True)
    names = read_names(given.image_list) if given.image_list else None
    options = extraction_options_of(conf, "float16" if given.as_half else "float32")
    return extraction.extract(options, given.image_dir, output, names).path


def match_features(arguments: list[str]) -> Path:
    """hloc's command of that name; the matches file that it made."""
    confs = MATCHERS | MATCHERS_OF_HLOC
    parser = matching_parser(confs, "NN-mutual-d2net", EXTRACTORS["d2net"]["output"])
    given = parser.parse_args(arguments)
    conf = confs[given.conf]
    features, matches = _paths(given, conf["output"])
    matches.parent.mkdir(parents=True, exist_ok=True)
    options = matching_options_of(conf["model"])
    return match_pairs.match(options, read_pairs(given.pairs), features, matches).path


def _paths(given: argparse.Namespace, output: str) -> tuple[Path, Path]:
    """The files of features and matches; `--features` is a file or, as a name, in export_dir."""
    features = Path(given.features)
    if features.is_file():
        if given.matches is None:
            raise ValueError(f"{features} is a file: give that of the matches with --matches.")
        return features, given.matches
    if given.export_dir is None:
        raise ValueError(f"{features} is not a file: give the folder it is in with --export_dir.")
    matches = given.export_dir / f"{given.features}_{output}_{given.pairs.stem}.h5"
    return given.export_dir / f"{given.features}.h5", given.matches or matches


def extraction_options_of(conf: Conf, descriptor_dtype: Any) -> ExtractionOptions:
    """The options of our own step that a conf of hloc's form asks for."""
    if conf["model"]["name"] == "d2net_dense":
        return ExtractionOptions(
            feature="d2net-dense",
            resize_max=conf["preprocessing"]["resize_max"],
            descriptor_dtype=descriptor_dtype,
        )
    options = d2net_options_of(conf["model"])
    one_scale = "d2net-fine" if conf["model"].get("fine") else "d2net"
    return ExtractionOptions(
        feature=one_scale if len(options.scales) == 1 else "d2net-ms",
        d2net=options,
        resize_max=conf["preprocessing"]["resize_max"],
        descriptor_dtype=descriptor_dtype,
        rotations="none",  # hloc reads images as they are stored
    )


def read_names(pattern: Path) -> list[str]:
    """Image names: the first word of each line that is no comment, in the files of a pattern.

    Raises:
        ValueError: if there is no such file, or no name in it.
        UnsafeName: for a name that leads out of the folder of images.
    """
    files = sorted(pattern.parent.glob(pattern.name))
    names = [
        image_name(line.split()[0], f"{file}, line {number}")
        for file in files
        for number, line in numbered_lines(file)
    ]
    if not names:
        raise ValueError(f"{pattern}: there is no list of images there, or it is empty.")
    return names
