"""Parts of arguments that are read while a command begins: ground truth and weights."""

from __future__ import annotations

import argparse

from d2_hloc.features import registry
from d2_hloc.features.options import FeatureOptions
from d2_hloc.sfm.pose_errors import check_frame
from d2_hloc.sfm.poses_file import read_poses


def check_truth(args: argparse.Namespace, is_aligned: bool = True) -> None:
    """Read the ground truth once: a mistake in it should not cost the run.

    Args:
        args: of the command.
        is_aligned: whether the model is aligned to it, rather than in its frame already.

    Raises:
        ValueError: if it cannot be read, or no model be aligned to it.
    """
    if args.ground_truth is not None:
        truth = read_poses(args.ground_truth)
        if is_aligned:
            check_frame(truth, args.ground_truth)


def fetch_weights(options: FeatureOptions, args: argparse.Namespace) -> None:
    """Fetch the feature's weights, if --download allows it and they are not here."""
    if args.download:
        registry.adapter_of(options.feature).download(options)
