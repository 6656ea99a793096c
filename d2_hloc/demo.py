"""The embedded demo: a rendered scene, reconstructed; views that were kept out, localized."""

from __future__ import annotations

from pathlib import Path

from d2_hloc.colmap import read_model
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
from d2_hloc.report import Report
from d2_hloc.runs import Localize, Reconstruct, localize_queries, reconstruct
from d2_hloc.scene.demo import write_demo


def demo(output: Path) -> None:
    """Render, reconstruct, localize; print the true errors and write OUT/report.html."""
    scene = output / "scene"
    output.mkdir(parents=True, exist_ok=True)
    write_demo(scene)
    intrinsics, truth = scene / "intrinsics.txt", scene / "ground_truth.txt"
    record = reconstruct(Reconstruct(intrinsics=intrinsics), scene / "images", output)
    run = localize_queries(
        Localize(intrinsics=intrinsics), output, scene / "queries", output / "localization"
    )
    model = read_model(output / "sparse")
    score_model(record, model, output, truth)
    errors = score_queries(run, truth)
    print_table(model_rows(record))
    print_table(localization_rows(run.record))
    print_queries(run.found, errors)
    report = Report("d2-hloc demo", subtitle="A rendered square, its cameras known exactly")
    add_model(report, record, model, scene / "images", output)
    add_localization(report, run, errors)
    report.write(output / "report.html")
    print(f"\n{output / 'report.html'}")
