"""Checkpoints: everything that a run needs to go on to the bit, in the published form.

`last.pth` and `best.pth` load wherever published weights do; in `last.pth` the optimiser and the
place in the schedule stand beside the model. No generator's state is kept: whatever is random is
drawn from the seed, the epoch and the number of the pair.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from d2_hloc.core import config
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.outputs import Outputs
from d2_hloc.network.backbone import CONV4, LAYERS
from d2_hloc.network.weights.catalogue import BUNDLED
from d2_hloc.network.weights.state import to_backbone, to_published
from d2_hloc.training.network import Network

FASTEST = 1e3  # learning rate


@dataclass(kw_only=True)
class Progress:
    """Place of a run in its schedule, and its best measure so far."""

    epoch: int = 0  # the epoch under way
    step: int = 0  # its steps that are done
    total_steps: int = 0  # of all epochs
    best_epoch: int = -1  # after how many epochs matching was best; -1: never measured
    best_accuracy: float = -1.0

    def __post_init__(self) -> None:
        if not 0 <= self.step <= self.total_steps or min(self.epoch, self.best_epoch + 1) < 0:
            raise ValueError(f"{self} is no place in a schedule.")


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put an optimizer back into a state of its own form.

    Raises:
        ValueError: if the state is of another form, or not finite: torch would find out in a step.
        TypeError, KeyError, AttributeError: if it is no state at all.
    """
    groups = optimizer.state_dict()["param_groups"]
    for given, own in zip(state["param_groups"], groups, strict=True):
        if {**given, "lr": None} != {**own, "lr": None}:  # which changes from step to step
            raise ValueError("its options are others")
        if not isinstance(given["lr"], float) or not 0 <= given["lr"] <= FASTEST:
            raise ValueError(f"its learning rate is {given['lr']}")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found = {k: _moments(values, parameters[k]) for k, values in state["state"].items()}
    if found and len(found) != len(parameters):
        raise ValueError("it is not of all parameters")
    optimizer.load_state_dict(state | {"state": found})


def _moments(values: dict[str, Tensor], parameter: Tensor) -> dict[str, Tensor]:
    """State of one parameter, in memory of its own."""
    if values.keys() != {"step", "exp_avg", "exp_avg_sq"}:
        raise ValueError("its state is not Adam's")
    for name, value in values.items():
        shape = torch.Size() if name == "step" else parameter.shape
        if value.shape != shape or not value.is_floating_point() or not value.isfinite().all():
            raise ValueError(f"its {name} is of another form")
    if float(values["step"]) < 1 or float(values["exp_avg_sq"].min()) < 0:
        raise ValueError("it is no state of Adam's")
    form = torch.contiguous_format
    return {name: value.clone(memory_format=form) for name, value in values.items()}


def save_checkpoint(
    path: Path,
    network: Network,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
) -> None:
    """Write everything, whole or not at all.

    Raises:
        OSError: if it cannot be written; the checkpoint before stays.
    """
    buffer = io.BytesIO()
    values = {
        "model": to_published(network.backbone.state_dict()),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "progress": vars(progress),
    }
    torch.save(values, buffer)
    _write(path, buffer.getvalue())


def load_checkpoint(
    path: Path,
    network: Network,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> Progress:
    """Put everything back as it was when it was saved; the beginning where there is no file.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.is_file():
        return Progress()
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state = to_backbone(values["model"], path)
        network.backbone.load_state_dict(state)
        load_optimizer(optimizer, values["optimizer"])
        own = {name: type(value) for name, value in scaler.state_dict().items()}
        if {name: type(value) for name, value in values["scaler"].items()} != own:
            raise ValueError("its scaler is another one")
        if own:
            scaler.load_state_dict(values["scaler"])
        return config.from_dict(Progress, values["progress"])
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(
            f"{path}: is not a checkpoint of this run; delete it to begin again."
        ) from error


def save_best(folder: Path, network: Network, progress: Progress) -> None:
    """Write the weights alone: best.pth, and best.safetensors in float32.

    Where training began from bundled weights, best_small.safetensors holds the layers that learned
    in float16; it loads too, the other layers being those bundled.

    Raises:
        OSError: if a file cannot be written; those before stay.
    """
    outputs, state = Outputs(folder), to_published(network.backbone.state_dict())
    buffer = io.BytesIO()
    torch.save({"model": state, "progress": vars(progress)}, buffer)
    _write(outputs.best_checkpoint, buffer.getvalue())
    note = {"input": "BGR, 0-255, minus the mean", "trained_from": network.trained_from}
    _write(outputs.best_weights, save(state, note))
    if network.source in BUNDLED:
        learned = CONV4[CONV4.index(network.trained_from) :]
        indices = {str(LAYERS[layer][2]) for layer in learned}
        small = {k: v.half() for k, v in state.items() if k.split(".")[-2] in indices}
        _write(outputs.best_small_weights, save(small, note | {"base": network.source}))


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise OSError(
            f"{path}: cannot be written ({error.strerror}); free some space and run again, it goes "
            "on from the checkpoint before."
        ) from error
