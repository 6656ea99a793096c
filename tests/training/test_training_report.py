"""The contents of a training run's report says, from planted tables."""

import numpy as np
import pytest

from d2_hloc.training.report import best_epoch, loss_curves, training_headline


def row(epoch, accuracy, loss=1.0):
    return {
        "epoch": epoch,
        "loss": loss,
        "accuracy": accuracy,
        "detected_accuracy": accuracy,
        "matching_accuracy": accuracy,
        "pairs": 5,
    }


def test_the_headline_is_of_the_first_of_the_most_accurate_epochs():
    measured = [row(0, 0.5, 1.1), row(1, 0.7, 0.9), row(2, 0.7, 0.8), row(3, 0.6, 0.7)]
    assert best_epoch(measured)["epoch"] == 1
    numbers = dict(training_headline(measured))
    assert numbers == {
        "epochs": 3,
        "best epoch": 1,
        "matching accuracy before": 0.5,
        "matching accuracy at best": 0.7,
        "loss before": 1.1,
        "loss at best": 0.9,
    }


def test_the_losses_curve_is_made_of_means_over_the_epochs():
    losses = [
        {"epoch": e, "loss": float(e) if s else np.nan} for e in range(4) for s in range(1000)
    ]
    curves = loss_curves(losses, [row(0, 0, 2.0), row(4, 0, 1.5)])
    x, y = curves["training"]
    assert len(x) == 200
    assert y == pytest.approx(np.repeat(np.arange(4.0), 50))  # steps without a pair are left out
    assert x[-1] == pytest.approx(4, abs=0.02)
    assert curves["held back"] == ([0, 4], [2.0, 1.5])


def test_before_the_first_step_there_is_no_training_curve():
    assert loss_curves([], [row(0, 0.5)])["training"] == ([], [])
