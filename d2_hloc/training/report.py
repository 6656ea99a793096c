"""Report of a training run, written after each epoch: curves, pairs of crops, a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from d2_hloc.files.outputs import Outputs
from d2_hloc.files.run_record import RunRecord
from d2_hloc.network.detection import soft_scores
from d2_hloc.reports.charts import curves_figure
from d2_hloc.reports.drawing import draw_matches, draw_scores
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.training.history import LOSSES, VALIDATION, Row, Table
from d2_hloc.training.loss import LossOptions
from d2_hloc.training.network import Network
from d2_hloc.training.pair import PairSource, TrainingPair

DRAWN = 2  # pairs
SMOOTHED = 200  # points of the loss's curve at most; each is a mean
ABOUT = (
    "Accuracy is the share of correspondences whose nearest neighbour, among all cells of the "
    "other crop, lies within one cell (8 pixels) of the right one; that of detections weighs each "
    "correspondence by its soft detection scores. Matching accuracy is of the network as at test: "
    "the share of mutual nearest neighbours among its detections that are right within 3 pixels. "
    "All are of pairs that are not trained with."
)


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A training run that a report is made from."""

    output: Path
    subtitle: str
    record: RunRecord
    loss: LossOptions
    held_back: PairSource


def write_training_report(run: TrainingRun, network: Network) -> Path:
    """Write report.html from the run's tables, with pictures by the network as it is."""
    outputs = Outputs(run.output)
    losses = Table(outputs.losses, LOSSES).rows()
    measured = Table(outputs.validation, VALIDATION).rows()
    note_scores(run.record, measured)
    report = Report("Training", subtitle=run.subtitle)
    report.headline(training_headline(measured))
    report.figure("Loss", curves_figure(loss_curves(losses, measured), "epoch", "loss"))
    epochs = [row["epoch"] for row in measured]
    curves = {
        "of correspondences": (epochs, [row["accuracy"] for row in measured]),
        "of detections": (epochs, [row["detected_accuracy"] for row in measured]),
        "matching, as at test": (epochs, [row["matching_accuracy"] for row in measured]),
    }
    report.figure("Accuracy", curves_figure(curves, "epoch", "accuracy"), note=ABOUT)
    pictures = draw_held_back_pairs(run, network)
    if pictures:
        report.picture("Pairs held back, and where they are detected", pictures)
    report.table("Epochs", measured, columns=VALIDATION)
    return report.write(outputs.report)


def report_training(run: TrainingRun, network: Network) -> None:
    """Print the first and the best measures of a run, and write its report."""
    path, outputs = write_training_report(run, network), Outputs(run.output)
    print_table(training_headline(Table(outputs.validation, VALIDATION).rows()))
    print(f"\n{path}\n{outputs.best_checkpoint}")


def note_scores(record: RunRecord, measured: Sequence[Row]) -> None:
    """Write the first, best and last measures into run.json."""
    record.scores = {"before": measured[0], "best": best_epoch(measured), "last": measured[-1]}
    record.write()


def best_epoch(measured: Sequence[Row]) -> Row:
    """Row of the epoch of highest matching accuracy, the first of equals: the best checkpoint's."""
    return max(measured, key=lambda row: row["matching_accuracy"])


def training_headline(measured: Sequence[Row]) -> list[tuple[str, object]]:
    """Numbers on top of the report, by name."""
    top = best_epoch(measured)
    return [
        ("epochs", measured[-1]["epoch"]),
        ("best epoch", top["epoch"]),
        ("matching accuracy before", measured[0]["matching_accuracy"]),
        ("matching accuracy at best", top["matching_accuracy"]),
        ("loss before", measured[0]["loss"]),
        ("loss at best", top["loss"]),
    ]


def loss_curves(
    losses: Sequence[Row], measured: Sequence[Row]
) -> dict[str, tuple[list[float], list[float]]]:
    """Curves over the epoch: the training loss, means of many steps, and the validation loss."""
    steps = np.array([row["epoch"] for row in losses], dtype=float)
    per_epoch = max(1, int(np.bincount(steps.astype(int)).max())) if len(steps) else 1
    x = np.arange(1, len(losses) + 1) / per_epoch
    y = np.array([row["loss"] for row in losses], dtype=float)
    parts = np.array_split(np.arange(len(y)), min(SMOOTHED, max(1, len(y))))
    parts = [part[np.isfinite(y[part])] for part in parts]
    parts = [part for part in parts if len(part)]
    return {
        "training": ([float(x[p].mean()) for p in parts], [float(y[p].mean()) for p in parts]),
        "held back": ([row["epoch"] for row in measured], [row["loss"] for row in measured]),
    }


def draw_held_back_pairs(run: TrainingRun, network: Network) -> list[tuple[Image.Image, str]]:
    """Pictures of the first pairs held back: correspondences, and soft scores of both crops."""
    pictures = []
    for index in range(len(run.held_back)):
        pair = run.held_back.pair(0, index)
        if pair is not None and len(pair):
            pictures += draw_training_pair(pair, network, run.loss)
        if len(pictures) >= 2 * DRAWN:
            break
    return pictures


def draw_training_pair(
    pair: TrainingPair, network: Network, options: LossOptions
) -> list[tuple[Image.Image, str]]:
    """Pictures of two crops with their correspondences, and with their soft scores."""
    crops = to_image(pair.image0), to_image(pair.image1)
    with torch.no_grad():
        maps = F.relu(network(network.trunk(torch.stack([pair.image0, pair.image1]))))
        scores = soft_scores(maps, options.soft_detection).cpu().numpy()
    lines = draw_matches(crops[0], crops[1], pair.xy0.numpy(), pair.xy1.numpy())
    heats = [draw_scores(crop, score) for crop, score in zip(crops, scores, strict=True)]
    both = Image.new("RGB", lines.size, (128, 128, 128))
    both.paste(heats[0], (0, 0))
    both.paste(heats[1], (lines.width - heats[1].width, 0))
    return [
        (lines, f"{pair.name}: {len(pair)} correspondences"),
        (both, f"{pair.name}: soft detection scores"),
    ]


def to_image(crop: torch.Tensor) -> Image.Image:
    """Image of a crop, RGB in [0, 1], (3, H, W)."""
    return Image.fromarray((crop * 255).round().byte().permute(1, 2, 0).numpy())
