"""Batches of pairs as the learning layers take them: through the frozen trunk, or cached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from d2_hloc.core.pixels import TRAINING_STRIDE
from d2_hloc.network.backbone import LAYERS
from d2_hloc.training.cache import ActivationCache, TrunkExample
from d2_hloc.training.network import Network
from d2_hloc.training.options import TrainingOptions
from d2_hloc.training.pair import PairSource, TrainingPair


def joined_activations(batch: Sequence[TrunkExample]) -> Float[Tensor, "_ D h w"]:
    """The activations (2B, D, h, w) of a batch, image 0 and 1 of each pair in turn."""
    return torch.cat([example.activations for example in batch])


class TrunkExamples:
    """Batches of a source through the trunk, from the cache where there is one."""

    def __init__(
        self, options: TrainingOptions, source: PairSource, network: Network, folder: Path
    ) -> None:
        self.options, self.source, self.network = options, source, network
        self.cache: ActivationCache | None = None
        if options.cache.is_enabled_on(network.device):
            edge = source.crop // TRAINING_STRIDE
            shape = LAYERS[options.trained_from][0], edge, edge
            made_by = {
                name: getattr(options, name)
                for name in ("weights", "trained_from", "precision", "min_correspondences", "seed")
            } | {"source": source.identity}
            self.cache = ActivationCache(folder, len(source), shape, options.cache, made_by)

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, epoch: int, indices: np.ndarray) -> Iterator[list[TrunkExample]]:
        """The usable examples of each row of `indices` (steps, batch)."""
        if self.cache is not None:
            epoch = 0  # the crops are those of the first
        waiting = [i for i in indices.ravel().tolist() if not (self.cache and self.cache.has(i))]
        pairs = iter(self._load(epoch, waiting))
        missing = set(waiting)
        for row in indices.tolist():
            examples = [self._example(i, next(pairs) if i in missing else None) for i in row]
            yield [e for e in examples if e is not None]

    def _example(self, index: int, pair: TrainingPair | None) -> TrunkExample | None:
        if self.cache is not None and self.cache.has(index):
            return self.cache.get(index)
        example = None
        if pair is not None and len(pair) >= self.options.min_correspondences:
            activations = self.network.trunk(torch.stack([pair.image0, pair.image1]))
            example = TrunkExample(activations=activations, xy0=pair.xy0, xy1=pair.xy1)
        return example if self.cache is None else self.cache.put(index, example)

    def _load(self, epoch: int, indices: Sequence[int]) -> DataLoader:
        """Pairs in this order, made ahead by worker processes if there are any."""
        return DataLoader(
            NumberedPairs(self.source, epoch, indices),
            batch_size=None,
            num_workers=self.options.workers,
        )


class NumberedPairs(Dataset):
    """Some pairs of an epoch, in the order given."""

    def __init__(self, source: PairSource, epoch: int, indices: Sequence[int]) -> None:
        self.source, self.epoch, self.indices = source, epoch, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> TrainingPair | None:
        return self.source.pair(self.epoch, self.indices[place])
