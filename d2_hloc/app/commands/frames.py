"""Frames of a video: d2-hloc frames."""

from __future__ import annotations

import argparse

from d2_hloc.app.video import extract_frames


def run_frames(_: None, args: argparse.Namespace) -> None:
    """Run d2-hloc frames."""
    written = extract_frames(args.video, args.output, args.every, args.sharpest)
    print(f"{args.output}: {len(written)} frames")
