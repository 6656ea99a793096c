"""The training loop (Section 4.3): Adam at a rate that halves, a few layers, one pair at a time.

A run writes into its folder `losses.csv`, a row a step; `validation.csv`, a row an epoch, the first
from before training; `last.pth`, from which it goes on to the bit, on the same machine; and
`best.pth`, of the highest matching accuracy on the pairs held back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from d2_hloc.files.outputs import Outputs
from d2_hloc.training import matching_accuracy
from d2_hloc.training.cache import TrunkExample
from d2_hloc.training.checkpoint import load_checkpoint, save_best, save_checkpoint
from d2_hloc.training.distributed import World
from d2_hloc.training.examples import TrunkExamples, joined_activations
from d2_hloc.training.history import LOSSES, VALIDATION, Row, Table
from d2_hloc.training.loss import pair_loss
from d2_hloc.training.network import Network
from d2_hloc.training.options import TrainingOptions
from d2_hloc.training.pair import PairSource
from d2_hloc.training.validation import MEASURES, measure_maps

logger = logging.getLogger(__name__)


class Trainer:
    """One run in one folder; run() goes on from whatever is there."""

    def __init__(
        self,
        options: TrainingOptions,
        train: PairSource,
        held_back: PairSource,
        output: Path,
        world: World,
        after_epoch: Callable[[Network], object] = lambda _: None,
    ) -> None:
        """`after_epoch` is called in the first process, when an epoch's files are written.

        Raises:
            WeightsError: if the weights to begin with cannot be used.
            ValueError: if there are too few pairs, or the last checkpoint is damaged.
        """
        self.options, self.world, self.outputs = options, world, Outputs(output)
        self.after_epoch = after_epoch
        # Other kernels after a resume would give other sums.
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        self.network = Network(options.weights, options.trained_from, options.precision)
        self.network.to(world.device)
        self.optimizer = torch.optim.Adam(self.network.learned(), lr=options.learning_rate)
        uses_scale = options.precision == "float16"
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=uses_scale)
        self.steps = len(train) // (options.batch_size * world.size)
        if self.steps == 0 or len(held_back) == 0:
            raise ValueError(
                f"{len(train)} pairs to train with and {len(held_back)} held back are too few for "
                f"batches of {options.batch_size * world.size}."
            )
        output.mkdir(parents=True, exist_ok=True)
        self._open(train, held_back)
        self.losses = Table(self.outputs.losses, LOSSES)
        self.validation = Table(self.outputs.validation, VALIDATION)
        self.last = self.outputs.last_checkpoint
        self.progress = load_checkpoint(self.last, self.network, self.optimizer, self.scaler)
        self._saved = time.monotonic()

    def _open(self, train: PairSource, held_back: PairSource) -> None:
        """Open the pairs; the first process makes their caches, the others wait for it."""
        for is_turn in (True, False):
            if self.world.is_first is is_turn:
                self.train, self.held_back = (
                    TrunkExamples(
                        self.options, source, self.network, self.outputs.activations(name)
                    )
                    for name, source in (("train", train), ("held_back", held_back))
                )
            self.world.wait()

    def run(self) -> None:
        """Train to the last epoch.

        Raises:
            ValueError: if no pair held back can be used, a loss is not finite, or a GPU is too
                small. What was computed before stays.
        """
        try:
            self._run()
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"{self.outputs.folder}: the GPU has too little memory; lower batch_size or choose "
                "bfloat16 in another output."
            ) from error

    def _run(self) -> None:
        progress = self.progress
        if self.world.is_first:
            self.losses.keep_before(progress.total_steps)
            self.validation.keep_before(progress.epoch + 1 if progress.best_epoch >= 0 else 0)
        self.world.wait()
        if progress.best_epoch < 0:
            self._validate()
        while progress.epoch < self.options.epochs:
            self._run_epoch()
            progress.epoch, progress.step = progress.epoch + 1, 0
            self._validate()

    def _run_epoch(self) -> None:
        """Do the steps of an epoch that are not done yet."""
        options, progress = self.options, self.progress
        rate = options.learning_rate * 0.5 ** (progress.epoch // options.halve_every)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        size = options.batch_size * self.world.size
        order = np.random.default_rng([options.seed, progress.epoch]).permutation(len(self.train))
        order = order[: self.steps * size].reshape(self.steps, self.world.size, -1)
        mine = order[progress.step :, self.world.rank]
        bar = tqdm(
            self.train.batches(progress.epoch, mine),
            desc=f"epoch {progress.epoch + 1}",
            total=self.steps,
            initial=progress.step,
            unit="step",
            disable=not self.world.is_first,
        )
        for batch in bar:
            row = self._step(batch) | {"learning_rate": rate}
            bar.set_postfix_str(f"loss {row['loss']:.4f}", refresh=False)
            progress.step, progress.total_steps = progress.step + 1, progress.total_steps + 1
            if self.world.is_first:
                self.losses.append(row)
                self._save_in_time()

    def _step(self, batch: Sequence[TrunkExample]) -> Row:
        """Do one step of Adam on the mean loss of the pairs of all processes."""
        self.optimizer.zero_grad(set_to_none=False)
        maps = self.network(joined_activations(batch)).unflatten(0, (-1, 2)) if batch else []
        losses = [
            pair_loss(self.options.loss, map0, map1, *self._ends(example))[0]
            for (map0, map1), example in zip(maps, batch, strict=True)
        ]
        total = torch.stack(losses).sum() if losses else torch.zeros((), device=self.world.device)
        scaled = self.scaler.scale(total)
        if losses:
            scaled.backward()
        found = sum(len(example.xy0) for example in batch)
        total, pairs, found = self._share(total.item(), len(losses), found)
        self._check(total)
        if pairs:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return {
            "step": self.progress.total_steps,
            "epoch": self.progress.epoch,
            "loss": total / pairs if pairs else float("nan"),
            "pairs": int(pairs),
            "correspondences": int(found),
        }

    def _share(self, total: float, pairs: int, found: int) -> list[float]:
        """Sum losses and counts over the processes; make the gradients those of the mean."""
        sums = torch.tensor([total, pairs, found], dtype=torch.float64, device=self.world.device)
        sums = self.world.sum(sums).tolist()
        for parameter in self.network.learned():
            if parameter.grad is None:  # before the first pair of this process
                parameter.grad = torch.zeros_like(parameter)
            self.world.sum(parameter.grad)
            parameter.grad /= max(sums[1], 1)
        return sums

    def _check(self, total: float) -> None:
        if not np.isfinite(total):
            raise ValueError(
                f"{self.outputs.folder}: the loss of step {self.progress.total_steps} is not "
                "finite; begin again in another output with a lower learning_rate or in float32."
            )

    def _ends(self, example: TrunkExample) -> tuple[Tensor, Tensor]:
        return example.xy0.to(self.world.device), example.xy1.to(self.world.device)

    def _validate(self) -> None:
        """Measure on the pairs held back, note it, and keep the best and the last checkpoint."""
        mine = np.arange(self.world.rank, len(self.held_back), self.world.size)
        sums = torch.zeros(len(MEASURES) + 1, dtype=torch.float64)
        for batch in self.held_back.batches(0, mine[:, None]):
            for example in batch:
                with torch.no_grad():
                    map0, map1 = self.network(example.activations)
                measures = measure_maps(self.options.loss, map0, map1, *self._ends(example))
                sums += torch.cat([measures.double().cpu(), torch.ones(1, dtype=torch.float64)])
        sums = self.world.sum(sums.to(self.world.device)).tolist()
        if not sums[-1]:
            raise ValueError(
                f"{self.outputs.folder}: none of the {len(self.held_back)} pairs held back has "
                f"{self.options.min_correspondences} correspondences; mend what is warned of, give "
                "larger images or a smaller crop, or lower min_correspondences."
            )
        means = {name: value / sums[-1] for name, value in zip(MEASURES, sums, strict=False)}
        row = {"epoch": self.progress.epoch, **means, **self._match(), "pairs": int(sums[-1])}
        self._conclude(row)

    def _match(self) -> Row:
        """Means of some pairs held back, matched as at test."""
        count = min(len(self.held_back), self.options.matched_pairs)
        sums = torch.zeros(len(matching_accuracy.MEASURES) + 1, dtype=torch.float64)
        for index in range(self.world.rank, count, self.world.size):
            pair = self.held_back.source.pair(0, index)
            if pair is not None and len(pair) >= self.options.min_correspondences:
                measures = matching_accuracy.match_held_back(self.network.backbone, pair).double()
                sums += torch.cat([measures.double().cpu(), torch.ones(1, dtype=torch.float64)])
        *totals, pairs = self.world.sum(sums.to(self.world.device)).tolist()
        return {
            k: v / max(pairs, 1) for k, v in zip(matching_accuracy.MEASURES, totals, strict=True)
        }

    def _conclude(self, row: Row) -> None:
        progress = self.progress
        is_best = row["matching_accuracy"] > progress.best_accuracy
        if is_best:
            progress.best_epoch = progress.epoch
            progress.best_accuracy = row["matching_accuracy"]
        if self.world.is_first:
            self.validation.append(row)
            logger.info("%s", validation_line(row))
            if is_best:
                save_best(self.outputs.folder, self.network, progress)
            self._save()
            self.after_epoch(self.network)

    def _save_in_time(self) -> None:
        if time.monotonic() - self._saved > self.options.save_seconds:
            self._save()

    def _save(self) -> None:
        save_checkpoint(self.last, self.network, self.optimizer, self.scaler, self.progress)
        self._saved = time.monotonic()


def validation_line(row: Row) -> str:
    """A line of validation to read."""
    return (
        f"after {row['epoch']} epochs, {row['pairs']} pairs held back: loss {row['loss']:.4f}, "
        f"accuracy {row['accuracy']:.4f}, of detections {row['detected_accuracy']:.4f}; "
        f"matching accuracy {row['matching_accuracy']:.4f}, {row['right_matches']:.1f} right of "
        f"{row['features']:.0f} features"
    )
