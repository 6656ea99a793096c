"""Training the matcher: AdamW, a rate that rises, stays and falls, a running mean of the weights.

A run writes into its folder `losses.csv`; `validation.csv`, a row a validation, the first from
before training; `last.pth`, from which it goes on to the bit, on the same machine; and
`best.safetensors`, the running mean that did best on the pairs held back, as the matcher loads it.
"""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from tqdm import tqdm

from d2_hloc.core.devices import chosen_device, sent
from d2_hloc.core.ranges import MANY, SEEDS, SHARES, check_ranges
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.outputs import Outputs
from d2_hloc.matching.lightglue import Assignment, Glue, GlueShape, load_glue, locate, save_glue
from d2_hloc.network.d2net import DTYPES
from d2_hloc.training.checkpoint import load_optimizer
from d2_hloc.training.history import Row, Table
from d2_hloc.training.matcher.examples import Example, Source, stacked
from d2_hloc.training.matcher.loss import Measures, assignment_loss, measure

LOSSES = ("step", "loss", "partners", "alone", "learning_rate")
VALIDATION = (
    "step",
    "precision",
    "recall",
    "f1",
    "neighbours_precision",
    "neighbours_recall",
    "scene_precision",
    "scene_recall",
)
MIN_SCORE = 0.1  # of matches that are validated
GROUP = 8  # pairs that are validated at once


@dataclass(frozen=True, kw_only=True)
class MatcherTrainingOptions:
    """`begin_from` is a bundled matcher or a file; None begins with softly mutual neighbours.

    Attributes:
        begin_from: a bundled matcher or a file; null begins with softly mutual neighbours.
        steps: batches to train with.
        batch_size: pairs of a step.
        learning_rate: of AdamW, at most.
        warm_up: steps in which the rate rises.
        cool_down: share of the steps, the last, in which it falls.
        weight_decay: of AdamW.
        mean_of: steps that the kept weights are the mean of, about.
        precision: numbers that the network computes in.
        validate_every: steps between measurements.
        held_back_pairs: pairs that are measured.
        save_seconds: least time between checkpoints, seconds.
        seed: of pairs and weights.
    """

    begin_from: str | None = None
    steps: int = 5000
    batch_size: int = 8
    learning_rate: float = 8e-4
    warm_up: int = 300  # steps
    cool_down: float = 0.25  # of the steps, the last, in which the rate falls
    weight_decay: float = 0.01
    mean_of: int = 500  # steps, about
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    validate_every: int = 250
    held_back_pairs: int = 48
    save_seconds: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            steps=(1, MANY),
            batch_size=(1, MANY),
            learning_rate=(1e-12, 1e3),
            warm_up=(0, MANY),
            cool_down=SHARES,
            weight_decay=(0, 1e3),
            mean_of=(1, MANY),
            validate_every=(1, MANY),
            held_back_pairs=(1, MANY),
            save_seconds=(0, 1e6),
            seed=SEEDS,
        )

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        rising = (step + 1) / max(1, self.warm_up)
        falling = (self.steps - step) / max(1.0, self.cool_down * self.steps)
        return self.learning_rate * min(1.0, rising, falling)


class MatcherTrainer:
    """One run in one folder; run() goes on from whatever is there."""

    def __init__(
        self,
        options: MatcherTrainingOptions,
        shape: GlueShape,
        train: Source,
        held_back: Mapping[str, Source],
        output: Path,
    ) -> None:
        """`held_back` has 'views' and may have 'scenes'.

        Raises:
            WeightsError: if the weights to begin from cannot be used.
            ValueError: if pairs held back cannot be made, or the last checkpoint is damaged.
        """
        self.options, self.train, self.outputs = options, train, Outputs(output)
        self.device = chosen_device()
        self.glue = first_glue(options, shape).to(self.device)
        self.mean = copy.deepcopy(self.glue).eval().requires_grad_(False)
        learned = [p for p in self.glue.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in learned if p.ndim > 1]},
                {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=options.weight_decay,
        )
        output.mkdir(parents=True, exist_ok=True)
        self.losses = Table(self.outputs.losses, LOSSES)
        self.validation = Table(self.outputs.validation, VALIDATION)
        self.last = self.outputs.last_checkpoint
        self.step, self.best, self.validated = 0, -1.0, -1
        self._load()
        self.held_back = {
            name: held_back_batches(source, options) for name, source in held_back.items()
        }
        self._saved = time.monotonic()

    def run(self) -> None:
        """Train to the last step.

        Raises:
            ValueError: if a loss is not finite. What was computed before stays.
        """
        options = self.options
        self.losses.keep_before(self.step)
        self.validation.keep_before(self.validated + 1)
        if self.validated < 0:
            self._validate()
        bar = tqdm(
            range(self.step, options.steps),
            desc="train",
            total=options.steps,
            initial=self.step,
            unit="step",
        )
        for _ in bar:
            row = self._step()
            bar.set_postfix_str(f"loss {row['loss']:.3f}", refresh=False)
            self.losses.append(row)
            self.step += 1
            if self.step % options.validate_every == 0 or self.step == options.steps:
                self._validate()
            elif time.monotonic() - self._saved > options.save_seconds:
                self._save()

    def _step(self) -> Row:
        options, rate = self.options, self.options.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng([options.seed, self.step])
        batch = on_device(self.train.batch(options.batch_size, rng), self.device)
        loss = assignment_loss(assign(self.glue, batch, options.precision), batch)
        total = float(loss.total.detach())
        if not np.isfinite(total):
            raise ValueError(
                f"{self.outputs.folder}: the loss of step {self.step} is {total}; begin again in "
                "another output, with a lower learning_rate or precision float32."
            )
        self.optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(self.glue.parameters(), 1.0)
        self.optimizer.step()
        self._add_to_mean()
        return {
            "step": self.step,
            "loss": total,
            "partners": float(loss.partners.detach()),
            "alone": float(loss.alone.detach()),
            "learning_rate": rate,
        }

    @torch.no_grad()
    def _add_to_mean(self) -> None:
        weight = max(1 / self.options.mean_of, 20 / (self.step + 21))
        for mean, now in zip(self.mean.parameters(), self.glue.parameters(), strict=True):
            mean.lerp_(now, weight)

    def _validate(self) -> None:
        found = {
            name: evaluate(self.mean, batches, self.options.precision, self.device)
            for name, batches in self.held_back.items()
        }
        views, neighbours = found["views"]
        scenes = found["scenes"][0] if "scenes" in found else None
        score = views.f1 if scenes is None else (views.f1 + scenes.f1) / 2
        self.validation.append(
            {
                "step": self.step,
                "precision": views.precision,
                "recall": views.recall,
                "f1": views.f1,
                "neighbours_precision": neighbours.precision,
                "neighbours_recall": neighbours.recall,
                "scene_precision": scenes.precision if scenes else float("nan"),
                "scene_recall": scenes.recall if scenes else float("nan"),
            }
        )
        self.validated = self.step
        if score > self.best:
            self.best = score
            save_glue(self.outputs.best_weights, self.mean)
        self._save()

    def _save(self) -> None:
        buffer = io.BytesIO()
        values = {
            "glue": self.glue.net.state_dict(),
            "mean": self.mean.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {"step": self.step, "best": self.best, "validated": self.validated},
        }
        torch.save(values, buffer)
        write_atomically(self.last, buffer.getvalue())
        self._saved = time.monotonic()

    def _load(self) -> None:
        if not self.last.is_file():
            return
        try:
            values = torch.load(self.last, map_location="cpu", weights_only=True)
            self.glue.net.load_state_dict(values["glue"])
            self.mean.net.load_state_dict(values["mean"])
            load_optimizer(self.optimizer, values["optimizer"])
            progress = values["progress"]
            self.step, self.best = int(progress["step"]), float(progress["best"])
            self.validated = int(progress["validated"])
            if not -1 <= self.validated <= self.step or self.step < 0:
                raise ValueError(f"{progress} is no place in a schedule")
        except Exception as error:  # a damaged pickle can raise anything
            raise ValueError(
                f"{self.last}: is not a checkpoint of this run; delete it to begin again."
            ) from error


def first_glue(options: MatcherTrainingOptions, shape: GlueShape) -> Glue:
    """The network to begin with; its random weights are of the seed.

    Raises:
        WeightsError: if the weights to begin from cannot be used, or are of another shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        glue = Glue(shape)
    if options.begin_from is not None:
        found = load_glue(locate(options.begin_from))
        if found.shape != shape:
            raise ValueError(f"{options.begin_from}: has the shape {found.shape}, not {shape}.")
        glue.net.load_state_dict(found.net.state_dict())
    return glue.train()


def assign(glue: Glue, batch: Example, precision: str) -> Assignment:
    """The network on a batch, its layers in this precision, positions and sums in float32."""
    dtype = DTYPES[precision]
    if dtype == torch.float32:
        return glue(*batch.points())
    halved = {
        name: weight if "posenc" in name else weight.to(dtype)
        for name, weight in glue.named_parameters()
    }
    return functional_call(glue, halved, tuple(p.to(dtype) for p in batch.points()))


def on_device(batch: Example, device: torch.device) -> Example:
    """A batch on the device of the network."""
    return Example(**{name: sent(value, device) for name, value in vars(batch).items()})


def held_back_batches(source: Source, options: MatcherTrainingOptions) -> list[Example]:
    """Batches of pairs to measure with: always the same, as they are found."""
    rng = np.random.default_rng([options.seed, 77])
    count = source.options.points[-1]
    found = [source.example(count, rng, plain=True) for _ in range(options.held_back_pairs)]
    return [stacked(found[k : k + GROUP]) for k in range(0, len(found), GROUP)]


@torch.no_grad()
def evaluate(
    glue: Glue, batches: Sequence[Example], precision: str, device: torch.device
) -> tuple[Measures, Measures]:
    """Measures of the matcher, and of mutual nearest neighbours, on the same pairs."""
    matched, neighbours = [], []
    for batch in batches:
        scores = assign(glue, on_device(batch, device), precision).log_scores().cpu()
        matched += measure(scores, batch, MIN_SCORE)
        neighbours += measure(likeness(batch), batch, 0.0)
    return mean_of(matched), mean_of(neighbours)


def likeness(batch: Example) -> Tensor:
    """Cosines of the descriptors, less 1 to be logarithms of something below 1."""
    first, second = (points.descriptors for points in batch.points())
    return first @ second.transpose(1, 2) - 1


def mean_of(found: Sequence[tuple[float, float]]) -> Measures:
    """Mean precision and recall over pairs."""
    precision, recall = np.mean(found, axis=0)
    return Measures(precision=float(precision), recall=float(recall))
