"""Two images: d2-hloc pair."""

from __future__ import annotations

import argparse
from pathlib import Path

from d2_hloc.app.commands.common import fetch_weights
from d2_hloc.core import config
from d2_hloc.core.images import open_image
from d2_hloc.files.run_record import RunRecord
from d2_hloc.reports.image_pair import report_pair
from d2_hloc.sfm.image_pair import match_pair
from d2_hloc.sfm.options import PairMatchingOptions


def run_pair(options: PairMatchingOptions, args: argparse.Namespace) -> Path:
    """Run d2-hloc pair."""
    paths: tuple[Path, Path] = args.image0, args.image1
    for path in paths:
        open_image(path)  # before a folder is made
    fetch_weights(options.extraction, args)
    output = args.output or Path("d2-hloc-pair") / f"{paths[0].stem}-{paths[1].stem}"
    output.mkdir(parents=True, exist_ok=True)
    asked = {"images": [str(path.resolve()) for path in paths]}
    record = RunRecord(output, {**asked, **config.to_dict(options)})
    with record.timed("pair"):
        pair = match_pair(*paths, options)
    report_pair(pair, record)
    return record.path
