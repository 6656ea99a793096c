"""The command geometric_verification: two-view geometries of hloc's matches, by our estimator.

hloc's reconstruction has COLMAP verify all pairs. This takes its place between matches and mapper,
for a database that hloc made, or makes one of hloc's files.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

from d2_hloc.files import features_h5
from d2_hloc.files.colmap import open_database
from d2_hloc.matching.pairs import read_pairs
from d2_hloc.sfm.cameras.intrinsics import Intrinsics
from d2_hloc.sfm.cameras.sharing import cameras_of
from d2_hloc.sfm.database import build_database, verify_geometry
from d2_hloc.sfm.options import ReconstructionOptions, VerificationOptions
from d2_hloc.sfm.verification import Sources

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VerifiedPairs:
    """Pairs of a database that a geometry was found of, and their inlier matches."""

    pairs: int
    inliers: int


def verification_parser() -> argparse.ArgumentParser:
    """The arguments of geometric_verification, named as hloc names its own."""
    options = VerificationOptions()
    estimators = get_type_hints(VerificationOptions)["estimator"].__args__
    parser = argparse.ArgumentParser("geometric_verification")
    parser.add_argument("--database", type=Path, required=True, help="made if it is not there")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True, help="file of features")
    parser.add_argument("--matches", type=Path, required=True, help="file of matches")
    parser.add_argument("--image_dir", type=Path, help="of the images, to make a database")
    parser.add_argument("--intrinsics", type=Path, help="known cameras, to make a database")
    parser.add_argument("--estimator", choices=estimators, default=options.estimator)
    parser.add_argument("--max_error", type=float, default=options.max_error, help="pixels")
    parser.add_argument("--min_num_inliers", type=int, default=options.min_num_inliers)
    parser.add_argument("--random_seed", type=int, default=0)
    parser.add_argument("--num_threads", type=int, help="all there are, if it is not given")
    return parser


def geometric_verification(arguments: list[str]) -> VerifiedPairs:
    """Verify the matches of pairs in a database; pairs that have a geometry are left alone.

    Raises:
        ValueError: in one sentence that names the file, whatever cannot be used.
    """
    given = verification_parser().parse_args(arguments)
    pairs = read_pairs(given.pairs)
    if not given.database.exists():
        _make_database(given)
    options = ReconstructionOptions(
        verification=VerificationOptions(
            estimator=given.estimator,
            max_error=given.max_error,
            min_num_inliers=given.min_num_inliers,
        ),
        random_seed=given.random_seed,
        num_threads=given.num_threads,
    )
    verify_geometry(given.database, pairs, options, given.matches, Sources(features=given.features))
    with open_database(given.database) as db:
        found = VerifiedPairs(pairs=db.num_verified_image_pairs(), inliers=db.num_inlier_matches())
    text = "%s: %d pairs have a geometry, of %d matches"
    logger.info(text, given.database, found.pairs, found.inliers)
    return found


def _make_database(given: argparse.Namespace) -> None:
    if given.image_dir is None:
        raise ValueError(
            f"{given.database}: is not there; make it with hloc, or give the images by --image_dir."
        )
    names = features_h5.extracted_names(given.features)
    cameras = cameras_of(given.image_dir, names, Intrinsics.read(given.intrinsics))
    given.database.parent.mkdir(parents=True, exist_ok=True)
    pairs = read_pairs(given.pairs)
    build_database(given.database, cameras, pairs, given.features, given.matches)
