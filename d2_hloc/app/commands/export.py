"""Models for other programs: d2-hloc export."""

from __future__ import annotations

import argparse

from d2_hloc.app.commands.dense import images_of, masks_of
from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.files.colmap import sparse_folder
from d2_hloc.files.outputs import Outputs
from d2_hloc.sfm.exporting.export import ExportSource, export


def run_export(_: None, args: argparse.Namespace) -> None:
    """Run d2-hloc export."""
    run = Outputs.of_model(args.model)
    masks = MaskOptions(folder=args.masks, alpha=args.mask_alpha)
    source = ExportSource(
        model=sparse_folder(args.model),
        images=images_of(args),
        run=run if run.run_record.is_file() else None,
        masks=masks if masks.are_asked_for else masks_of(args.model),
    )
    print(export(source, args.target, args.output, args.max_image_size))
