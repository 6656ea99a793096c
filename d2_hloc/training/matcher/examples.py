"""Examples that a step learns from: points of two images, with the truth about them.

Batches are of one number of points an image, and so need no masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from d2_hloc.core.ranges import MANY, SHARES, check_ranges
from d2_hloc.matching.lightglue import Points, positions
from d2_hloc.training.matcher.cache import LARGEST, CachedView, moved
from d2_hloc.training.matcher.scenes import ScenePair
from d2_hloc.training.matcher.truth import Truth, TruthOptions, find_truth

ATTEMPTS = 1000  # at a pair that can be used
MIN_PARTNERS = 12


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """Which pairs there are. The shares are of pairs.

    Of two photographs side by side, as if it were one scene (`mosaics`), each half moves by a
    homography of its own, as the planes of a scene do. `strangers` have nothing in common.

    Attributes:
        points: points of an image; each batch draws one of these numbers.
        mosaics: share of pairs of two photographs side by side.
        strangers: share of pairs that have nothing in common.
        from_scenes: share of pairs of scenes, where there are scenes.
        smallest: least share of an image that another may fill, of those that positions are
            of.
        noise: largest noise of descriptors' numbers.
        truth: which points are partners.
    """

    points: tuple[int, ...] = (256, 320, 384, 512)  # an image; each batch draws one
    mosaics: float = 0.3
    strangers: float = 0.06
    from_scenes: float = 0.45  # where there are scenes
    smallest: float = 0.65  # an image may fill that much of another that the positions are of
    noise: float = 0.03  # of descriptors' numbers, at most; their length is 1
    truth: TruthOptions = field(default_factory=TruthOptions)

    def __post_init__(self) -> None:
        check_ranges(
            self,
            points=(1, MANY),
            mosaics=SHARES,
            strangers=SHARES,
            from_scenes=SHARES,
            smallest=(0.01, 1),
            noise=(0, 1),
        )
        if not self.points or min(self.points) < 2 * MIN_PARTNERS:
            raise ValueError(f"points must be {2 * MIN_PARTNERS} at least, not {self.points}.")
        if self.mosaics + self.strangers > 1:
            raise ValueError("mosaics and strangers must be 1 at most together.")


@dataclass(frozen=True, kw_only=True)
class Example:
    """Points of two images, or with one more dimension of a batch of them."""

    positions0: Float[Tensor, "*B N0 2"]
    positions1: Float[Tensor, "*B N1 2"]
    descriptors0: Int8[Tensor, "*B N0 D"]
    descriptors1: Int8[Tensor, "*B N1 D"]
    partner0: Int[Tensor, "*B N0"]
    alone0: Bool[Tensor, "*B N0"]
    alone1: Bool[Tensor, "*B N1"]

    def points(self) -> tuple[Points, Points]:
        """Points of both images, as the network takes a batch of them."""
        return (
            Points(descriptors=_unit(self.descriptors0), positions=self.positions0),
            Points(descriptors=_unit(self.descriptors1), positions=self.positions1),
        )


def _unit(descriptors: Tensor) -> Tensor:
    return F.normalize(descriptors.float(), dim=-1)


def stacked(examples: Sequence[Example]) -> Example:
    """A batch of examples of equal sizes."""
    return Example(
        **{f.name: torch.stack([getattr(e, f.name) for e in examples]) for f in fields(Example)}
    )


class Source:
    """Photographs' views, and pairs of scenes, to draw examples from."""

    def __init__(
        self,
        options: ExampleOptions,
        views: dict[str, list[CachedView]],
        scenes: Sequence[ScenePair] = (),
    ) -> None:
        """Views of fewer points than the smallest batch has are left out.

        Raises:
            ValueError: if no two views of a photograph are left.
        """
        least = min(options.points)
        kept = [[v for v in found if len(v) >= least] for found in views.values()]
        self.options, self.photos = options, [found for found in kept if len(found) >= 2]
        self.scenes = [p for p in scenes if min(len(p.keypoints0), len(p.keypoints1)) >= least]
        if not self.photos:
            raise ValueError(
                f"none of {len(views)} photographs has two views of {least} features; give more "
                "photographs, larger views, or fewer points."
            )

    def batch(self, size: int, rng: np.random.Generator) -> Example:
        """Examples of one number of points."""
        count = int(rng.choice(self.options.points))
        return stacked([self.example(count, rng) for _ in range(size)])

    def example(self, count: int, rng: np.random.Generator, plain: bool = False) -> Example:
        """One example of `count` points an image; a `plain` one is as it is found.

        Raises:
            ValueError: if there is none that can be used.
        """
        for _ in range(ATTEMPTS):
            found = self._draw(count, rng, plain)
            if found is not None and _is_usable(found):
                return found if plain else varied(found, self.options, rng)
        raise ValueError(
            f"no two views have {count} features and {MIN_PARTNERS} partners among them; give more "
            "photographs, larger views, or fewer points."
        )

    def _draw(self, count: int, rng: np.random.Generator, plain: bool) -> Example | None:
        options = self.options
        if self.scenes and rng.random() < options.from_scenes:
            return from_scene(self.scenes[rng.integers(len(self.scenes))], count, options, rng)
        kind = 1.0 if plain else rng.random()
        if kind < options.strangers:
            return strangers(self._two(rng)[0], self._two(rng)[1], count, rng)
        if kind < options.strangers + options.mosaics:
            return mosaic(self._two(rng), self._two(rng), count, options, rng)
        return from_views(*self._two(rng), count, options, rng)

    def _two(self, rng: np.random.Generator) -> tuple[CachedView, CachedView]:
        """Two views of a photograph."""
        found = self.photos[rng.integers(len(self.photos))]
        first, second = rng.permutation(len(found))[:2]
        return found[first], found[second]


def _is_usable(example: Example) -> bool:
    has_partners = int((example.partner0 >= 0).sum()) >= MIN_PARTNERS
    return has_partners or bool(example.alone0.all())


def choose(total: int, count: int, rng: np.random.Generator) -> Tensor | None:
    """The first `count`, the best, or as many among twice as many; None where there are fewer."""
    if total < count:
        return None
    if rng.random() < 0.5:
        return torch.arange(count)
    return torch.from_numpy(rng.permutation(min(total, 2 * count))[:count])


def from_views(
    view0: CachedView,
    view1: CachedView,
    count: int,
    options: ExampleOptions,
    rng: np.random.Generator,
    among: tuple[Tensor, Tensor] | None = None,
) -> Example | None:
    """Two views of a photograph, or those of their features that `among` lists."""
    lists = among or (torch.arange(len(view0)), torch.arange(len(view1)))
    chosen = [choose(len(found), count, rng) for found in lists]
    if chosen[0] is None or chosen[1] is None:
        return None
    index0, index1 = (found[k] for found, k in zip(lists, chosen, strict=True))
    xy0, xy1 = view0.keypoints[index0], view1.keypoints[index1]
    homography = view1.view_from_photo @ np.linalg.inv(view0.view_from_photo)
    truth = find_truth(
        xy0, xy1, moved(xy0, homography), moved(xy1, np.linalg.inv(homography)), options.truth
    )
    return _example(view0, view1, index0, index1, truth)


def _example(
    view0: CachedView, view1: CachedView, index0: Tensor, index1: Tensor, truth: Truth
) -> Example:
    return Example(
        positions0=positions(view0.keypoints[index0], view0.size),
        positions1=positions(view1.keypoints[index1], view1.size),
        descriptors0=view0.descriptors[index0],
        descriptors1=view1.descriptors[index1],
        partner0=truth.partner0,
        alone0=truth.alone0,
        alone1=truth.alone1,
    )


def strangers(
    view0: CachedView, view1: CachedView, count: int, rng: np.random.Generator
) -> Example | None:
    """Views of two photographs: nothing has a partner."""
    index0, index1 = choose(len(view0), count, rng), choose(len(view1), count, rng)
    if index0 is None or index1 is None or view0 is view1:
        return None
    alone = torch.ones(count, dtype=torch.bool)
    truth = Truth(partner0=torch.full((count,), -1), alone0=alone, alone1=alone)
    return _example(view0, view1, index0, index1, truth)


def mosaic(
    first: tuple[CachedView, CachedView],
    second: tuple[CachedView, CachedView],
    count: int,
    options: ExampleOptions,
    rng: np.random.Generator,
) -> Example | None:
    """One side of a line through a photograph, and the other side of it through another."""
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.15, 0.15)
    normal = torch.tensor([np.cos(angle), np.sin(angle)], dtype=torch.float32)
    share = count // 2 if rng.random() < 0.5 else int(rng.integers(count // 4, 3 * count // 4))
    parts = []
    for views, sign, part in ((first, 1, share), (second, -1, count - share)):
        among = [side_of(view, normal, offset, sign) for view in views]
        found = from_views(*views, part, options, rng, (among[0], among[1]))
        if found is None:
            return None
        parts.append(found)
    moved_on = parts[1].partner0 + share * (parts[1].partner0 >= 0)
    joined = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Example)}
    return Example(**{**joined, "partner0": torch.cat([parts[0].partner0, moved_on])})


def side_of(
    view: CachedView, normal: Float[Tensor, 2], offset: float, sign: int
) -> Int[Tensor, " K"]:
    """Features on one side of a line through the middle of the photograph."""
    on_photo = moved(view.keypoints, np.linalg.inv(view.view_from_photo))
    size = torch.tensor(view.photo_size)
    along = ((on_photo - size / 2) / size) @ normal - offset
    return (sign * along > 0).nonzero()[:, 0]


def from_scene(
    pair: ScenePair, count: int, options: ExampleOptions, rng: np.random.Generator
) -> Example | None:
    """Two photographs of a place, either way round."""
    pair = pair if rng.random() < 0.5 else pair.reversed()
    index0 = choose(len(pair.keypoints0), count, rng)
    index1 = choose(len(pair.keypoints1), count, rng)
    if index0 is None or index1 is None:
        return None
    xy0, xy1 = pair.keypoints0[index0], pair.keypoints1[index1]
    truth = find_truth(xy0, xy1, pair.in1[index0], pair.in0[index1], options.truth)
    return Example(
        positions0=positions(xy0, pair.size0),
        positions1=positions(xy1, pair.size1),
        descriptors0=pair.descriptors0[index0],
        descriptors1=pair.descriptors1[index1],
        partner0=truth.partner0,
        alone0=truth.alone0,
        alone1=truth.alone1,
    )


def varied(example: Example, options: ExampleOptions, rng: np.random.Generator) -> Example:
    """Mirrored, at random, each image as a part of a larger one, and its descriptors less exact."""
    mirror = torch.tensor([-1.0 if rng.random() < 0.5 else 1.0, 1.0])
    changes = {}
    for k, xy in enumerate((example.positions0, example.positions1)):
        scale = rng.uniform(options.smallest, 1)
        shift = torch.from_numpy(rng.uniform(-1, 1, 2) * (1 - scale)).float()
        changes[f"positions{k}"] = mirror * xy * scale + shift
    for k, descriptors in enumerate((example.descriptors0, example.descriptors1)):
        step = rng.uniform(0, options.noise) * 127 / LARGEST
        noise = torch.from_numpy(rng.normal(0, step, tuple(descriptors.shape))).float()
        changes[f"descriptors{k}"] = (descriptors + noise).round().clamp(-127, 127).to(torch.int8)
    return Example(**{**{f.name: getattr(example, f.name) for f in fields(Example)}, **changes})
