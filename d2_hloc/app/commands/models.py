"""Models and poses: reconstruct, triangulate, localize."""

from __future__ import annotations

import argparse
from pathlib import Path

from d2_hloc.app.commands.common import check_truth, fetch_weights
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.ray import engine_of
from d2_hloc.reports.localization import report_localization
from d2_hloc.reports.model import report_model
from d2_hloc.sfm.localize import (
    check_photographs,
    check_queries,
    extraction_of,
    find_model_source,
    localize_queries,
    triangulate_anew,
)
from d2_hloc.sfm.options import Localize, Reconstruct
from d2_hloc.sfm.reconstruct import reconstruct, triangulate_known


def run_reconstruct(conf: Reconstruct, args: argparse.Namespace) -> Path:
    """Run d2-hloc reconstruct."""
    check_truth(args)
    fetch_weights(conf.extraction, args)
    run = reconstruct(conf, args.images, args.output, engine_of(args))
    report_model(run, args.ground_truth)
    return run.outputs.run_record


def run_triangulate(conf: Reconstruct, args: argparse.Namespace) -> Path:
    """Run d2-hloc triangulate."""
    check_truth(args)
    fetch_weights(conf.extraction, args)
    run = triangulate_known(conf, args.model, args.images, args.output, engine_of(args))
    report_model(run, args.ground_truth)
    return run.outputs.run_record


def run_localize(conf: Localize, args: argparse.Namespace) -> Path:
    """Run d2-hloc localize."""
    model, source = args.model, find_model_source(args.model, args.images)
    engine = engine_of(args)
    check_truth(args, is_aligned=not source.has_given_poses)
    fetch_weights(extraction_of(source.features), args)
    if args.weights:
        check_queries(conf, source, args.queries, args.output)
        check_photographs(source)
        model = triangulate_anew(source, args.weights, Outputs(args.output).triangulated)
    run = localize_queries(conf, model, args.queries, args.output, args.images, engine)
    report_localization(run, args.ground_truth)
    return run.outputs.run_record
