"""The embedded demo: a rendered scene, reconstructed; views that were kept out, localized."""

from __future__ import annotations

import argparse
from pathlib import Path

from d2_hloc.app.scene.demo import GROUND_TRUTH, INTRINSICS, write_demo
from d2_hloc.reports.localization import (
    add_localization,
    localization_rows,
    print_queries,
    score_queries,
)
from d2_hloc.reports.model import add_model, model_rows, score_model
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.sfm.localize import LocalizationRun, localize_queries
from d2_hloc.sfm.options import Localize, Reconstruct
from d2_hloc.sfm.poses_file import read_poses
from d2_hloc.sfm.reconstruct import ModelRun, reconstruct


def run_demo_command(_: None, args: argparse.Namespace) -> None:
    """Run d2-hloc demo."""
    demo(args.output)


def demo(output: Path) -> None:
    """Render, reconstruct, localize; print the true errors and write OUT/report.html."""
    model, run = run_demo(output)
    truth = output / "scene" / GROUND_TRUTH
    scores, errors = score_model(model, truth), score_queries(run, read_poses(truth))
    print_table(model_rows(model, scores))
    print_table(localization_rows(run, errors))
    print_queries(run.found, errors)
    report = Report("d2-hloc demo", subtitle="A rendered square, its cameras known exactly")
    add_model(report, model, scores)
    add_localization(report, run, errors)
    print(f"\n{report.write(model.outputs.report)}")


def run_demo(output: Path) -> tuple[ModelRun, LocalizationRun]:
    """Render the scene, reconstruct it, and localize the views that were kept out."""
    scene = output / "scene"
    output.mkdir(parents=True, exist_ok=True)
    write_demo(scene)
    intrinsics = scene / INTRINSICS
    model = reconstruct(Reconstruct(intrinsics=intrinsics), scene / "images", output)
    conf = Localize(intrinsics=intrinsics)
    return model, localize_queries(conf, output, scene / "queries", output / "localization")
