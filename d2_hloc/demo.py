"""The embedded demo: a rendered scene, reconstructed; views that were kept out, localized."""

from __future__ import annotations

from pathlib import Path

from d2_hloc.localization import read_poses
from d2_hloc.presentation import (
    add_localization,
    add_model,
    localization_rows,
    model_rows,
    print_queries,
    print_table,
    score_model,
    score_queries,
)
from d2_hloc.query_runs import Localize, localize_queries
from d2_hloc.report import Report
from d2_hloc.runs import Reconstruct, reconstruct
from d2_hloc.scene.demo import write_demo


def demo(output: Path) -> None:
    """Render, reconstruct, localize; print the true errors and write OUT/report.html."""
    scene = output / "scene"
    output.mkdir(parents=True, exist_ok=True)
    write_demo(scene)
    intrinsics, truth = scene / "intrinsics.txt", scene / "ground_truth.txt"
    model = reconstruct(Reconstruct(intrinsics=intrinsics), scene / "images", output)
    run = localize_queries(
        Localize(intrinsics=intrinsics), output, scene / "queries", output / "localization"
    )
    score_model(model, truth)
    errors = score_queries(run, read_poses(truth))
    print_table(model_rows(model.record))
    print_table(localization_rows(run.record))
    print_queries(run.found, errors)
    report = Report("d2-hloc demo", subtitle="A rendered square, its cameras known exactly")
    add_model(report, model)
    add_localization(report, run, errors)
    report.write(output / "report.html")
    print(f"\n{output / 'report.html'}")
