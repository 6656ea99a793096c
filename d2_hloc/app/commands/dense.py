"""Depth maps of a model, and a data set to train with that is made of them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.files.colmap import ModelError, sparse_folder
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.ray import cluster_of, shard_of
from d2_hloc.files.shards import Shard
from d2_hloc.mvs.options import DenseOptions
from d2_hloc.mvs.reconstruct import reconstruct_dense
from d2_hloc.mvs.report import report_dense
from d2_hloc.mvs.shards import dense_shard, reconstruct_dense_on
from d2_hloc.sfm.localize import check_photographs, extraction_of, find_model_source
from d2_hloc.training.make_scene import make_training_scene


def run_dense(options: DenseOptions, args: argparse.Namespace) -> None:
    """Run d2-hloc dense."""
    cluster = cluster_of(args)
    if not options.masks.are_asked_for:
        options = replace(options, masks=masks_of(args.model))
    given = options, sparse_folder(args.model), images_of(args), args.output
    if args.stage is not None:
        print(dense_shard(*given, args.stage, shard_of(args) or Shard(1, 1)))
        return
    if args.shard is not None:
        raise ValueError("--shard is of a --stage, maps or consistency; name that too.")
    found = reconstruct_dense(*given) if cluster is None else reconstruct_dense_on(cluster, *given)
    report_dense(found, args.output)


def images_of(args: argparse.Namespace) -> Path:
    """Folder that --images names, or that of a model of ours, which must be as it was."""
    if args.images is not None:
        return args.images
    outputs = Outputs(args.model), Outputs.of_model(args.model)
    if not any(o.run_record.is_file() for o in outputs):
        raise ValueError(f"{args.model}: does not say where its images are; name them by --images.")
    source = find_model_source(args.model)
    check_photographs(source)
    return source.images


def masks_of(model: Path) -> MaskOptions:
    """The masks that a model of ours was made with; none of another model."""
    try:
        features = find_model_source(model).features
        return extraction_of(features).masks if features.is_file() else MaskOptions()
    except ModelError:
        return MaskOptions()


def run_make_training_scene(_: None, args: argparse.Namespace) -> None:
    """Run d2-hloc make-training-scene."""
    print(make_training_scene(args.model, args.depth, args.output, args.images, args.name))
