"""Models for other programs: d2-hloc export."""

from __future__ import annotations

import argparse

from d2_hloc.app.commands.dense import images_of
from d2_hloc.files.colmap import sparse_folder
from d2_hloc.files.outputs import Outputs
from d2_hloc.sfm.exporting.export import ExportSource, export


def run_export(_: None, args: argparse.Namespace) -> None:
    """Run d2-hloc export."""
    run = Outputs.of_model(args.model)
    source = ExportSource(
        model=sparse_folder(args.model),
        images=images_of(args),
        run=run if run.run_record.is_file() else None,
    )
    print(export(source, args.target, args.output, args.max_image_size))
