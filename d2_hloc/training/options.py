"""Options of a training: the schedule, the layers that learn, the loss and the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

from d2_hloc.core.devices import DeviceName
from d2_hloc.core.ranges import MANY, SEEDS, check_ranges
from d2_hloc.training.cache import CacheOptions
from d2_hloc.training.loss import LossOptions
from d2_hloc.training.network import Precision, TrainedFrom
from d2_hloc.training.pair import MIN_CORRESPONDENCES


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of a training, the paper's by default. `batch_size` is of each process, in pairs.

    Attributes:
        weights: what training begins from: a bundled or published name, or a file.
        trained_from: the first layer that learns.
        epochs: rounds of the pairs.
        learning_rate: of Adam.
        halve_every: epochs after which the rate is halved.
        batch_size: pairs of a step, of each process.
        min_correspondences: a pair with fewer is left out.
        precision: numbers that the network computes in.
        seed: of pairs and crops.
        workers: processes that make pairs; 0 is this one.
        device: where it computes: auto is a GPU where there is one.
        matched_pairs: pairs held back that are matched as at test after each epoch.
        save_seconds: least time between checkpoints, seconds.
        loss: the joint loss.
        cache: activations kept on disk.
    """

    weights: str = "d2_ots"
    trained_from: TrainedFrom = "conv4_3"
    epochs: int = 50
    learning_rate: float = 1e-3
    halve_every: int = 10  # epochs
    batch_size: int = 1
    min_correspondences: int = MIN_CORRESPONDENCES  # a pair with fewer is left out
    precision: Precision = "float32"
    seed: int = 0
    workers: int = 0  # processes that make pairs; 0: this one
    device: DeviceName = "auto"
    matched_pairs: int = 50  # of those held back, matched as at test after each epoch
    save_seconds: float = 60.0  # between checkpoints, at least
    loss: LossOptions = field(default_factory=LossOptions)
    cache: CacheOptions = field(default_factory=CacheOptions)

    def __post_init__(self) -> None:
        check_ranges(
            self,
            epochs=(1, MANY),
            learning_rate=(1e-12, 1e3),
            halve_every=(1, MANY),
            batch_size=(1, 10**5),
            min_correspondences=(1, MANY),
            seed=SEEDS,
            workers=(0, 1024),
            matched_pairs=(1, MANY),
            save_seconds=(0, MANY),
        )
