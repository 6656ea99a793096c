"""Tiny training data, for the tests of the loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from d2_hloc.training.cache import CacheOptions
from d2_hloc.training.loss import LossOptions
from d2_hloc.training.matcher.cache import CachedView, moved, to_bytes
from d2_hloc.training.matcher.views import homography
from d2_hloc.training.options import TrainingOptions
from d2_hloc.training.pair import TrainingPair, cell_centres, generator, to_float

OPTIONS = TrainingOptions(
    epochs=2,
    min_correspondences=8,
    device="cpu",
    save_seconds=1e9,
    loss=LossOptions(safe_radius=1),
    cache=CacheOptions(enabled=False),
)
CACHED = replace(OPTIONS, cache=CacheOptions(enabled=True))


class Toys:
    """Blobs and the same blobs, darker and noisy, one cell further to the left."""

    crop = 64
    identity = "toys"

    def __init__(self, count: int, seed: int = 0, fail_at: int | None = None) -> None:
        self.count, self.seed, self.fail_at, self.made = count, seed, fail_at, 0

    def __len__(self) -> int:
        return self.count

    def pair(self, epoch: int, index: int) -> TrainingPair | None:
        if self.made == self.fail_at:
            raise KeyboardInterrupt
        self.made += 1
        rng = generator(self.seed, epoch, index)
        coarse = torch.from_numpy(rng.random((1, 3, 16, 18), dtype="float32"))
        wide = F.interpolate(coarse, size=(64, 72), mode="bilinear")[0]
        noise = torch.from_numpy(rng.normal(0, 0.05, (3, 64, 64)).astype("float32"))
        xy0 = cell_centres(64, 64)
        xy0 = xy0[xy0[:, 0] > 8]
        return TrainingPair(
            name=f"toy {index}",
            image0=wide[:, :, :64],
            image1=(wide[:, :, 8:] * 0.6 + noise).clamp(0, 1),
            xy0=to_float(xy0),
            xy1=to_float(xy0 - [8, 0]),
        )


class WithoutPairs(Toys):
    """Toys of whose pairs some cannot be made."""

    def __init__(self, count: int, without: set[int]) -> None:
        super().__init__(count)
        self.without = without

    def pair(self, epoch: int, index: int) -> TrainingPair | None:
        return None if index in self.without else super().pair(epoch, index)


def planted_views(seed: int, count: int = 60, noise: float = 0.08) -> list[CachedView]:
    """Views of a plane whose features are the same points, a little apart, with noisy bytes."""
    rng = np.random.default_rng(seed)
    on_photo = torch.from_numpy(rng.uniform(10, 190, (count, 2))).float()
    descriptors = F.normalize(torch.from_numpy(rng.normal(size=(count, 32))).float(), dim=1)
    found = []
    for k in range(2):
        turned = homography(
            (200, 200), (160, 160), np.array([0.3 * k, 0.1 * k, 0.0]), 1.0, np.zeros(2)
        )
        order = torch.from_numpy(rng.permutation(count))
        noisy = descriptors + noise * torch.from_numpy(rng.normal(size=(count, 32))).float()
        found.append(
            CachedView(
                keypoints=moved(on_photo, turned)[order],
                descriptors=to_bytes(F.normalize(noisy, dim=1))[order],
                view_from_photo=turned,
                size=(160, 160),
                photo_size=(200, 200),
            )
        )
    return found
