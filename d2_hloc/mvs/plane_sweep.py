"""Depth of a view from others: planes swept through space, then surfaces beside the best ones.

Every hypothesis is a surface of inverse depths. The sources are seen through it, and each pixel
keeps the hypothesis whose windows are most alike. The first hypotheses are planes of constant depth
at half the size. The next ones are surfaces found so far, of the pixel or its neighbours, and those
beside them: windows follow the surface, so slanted ones are compared as well as frontal ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from d2_hloc.mvs.correlation import Correlation
from d2_hloc.mvs.options import SweepOptions
from d2_hloc.mvs.views import StereoView, pixel_grid, projection

SPREAD = 4, 12  # pixels at half the size, from neighbour to neighbour


class PhotoConsistency:
    """Measures how alike a view and its sources look through a surface."""

    def __init__(
        self, reference: StereoView, sources: Sequence[StereoView], options: SweepOptions
    ) -> None:
        self.correlation = Correlation(reference.image, options.window)
        self.best_sources = min(options.best_sources, len(sources))
        grid = pixel_grid(reference.image)
        self.sources = [(s.image, *_to_unit_square(s, reference, grid)) for s in sources]

    def __call__(self, inverse_depth: Float[Tensor, "H W"] | float) -> Float[Tensor, "H W"]:
        """Mean NCC of each pixel's best sources; a source that does not see it has -1."""
        best = [torch.full_like(self.correlation.reference, -1) for _ in range(self.best_sources)]
        for image, rays, b in self.sources:
            score = self._score(image, rays, b, inverse_depth)
            for k, kept in enumerate(best):
                best[k], score = torch.maximum(kept, score), torch.minimum(kept, score)
        return sum(best[1:], best[0]) / len(best)

    def _score(
        self, image: Tensor, rays: Tensor, b: list[float], inverse_depth: Tensor | float
    ) -> Tensor:
        z = rays[2] + b[2] * inverse_depth
        x = (rays[0] + b[0] * inverse_depth) / z
        y = (rays[1] + b[1] * inverse_depth) / z
        seen = F.grid_sample(
            image[None, None],
            torch.stack([x, y], dim=-1)[None],
            padding_mode="border",
            align_corners=True,
        )
        is_inside = (x.abs() <= 1) & (y.abs() <= 1) & (z > 0)
        return torch.where(is_inside, self.correlation(seen[0, 0]), -1)


def _to_unit_square(
    source: StereoView, reference: StereoView, grid: Float[Tensor, "3 H W"]
) -> tuple[Float[Tensor, "3 H W"], list[float]]:
    """projection() of the reference's pixels, with the source's corner pixels at -1 and 1."""
    A, b = projection(source, reference)
    height, width = source.size
    N = A.new_tensor([[2 / max(1, width - 1), 0, -1], [0, 2 / max(1, height - 1), -1], [0, 0, 1]])
    return torch.einsum("ij,jhw->ihw", (N @ A).to(grid), grid), (N @ b).tolist()


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Each pixel's best hypothesis."""

    score: Float[Tensor, "H W"]
    index: Float[Tensor, "H W"]  # between hypotheses


def best_hypothesis(scores: Iterable[Float[Tensor, "H W"]]) -> Peak:
    """The best of each pixel's scores, with a parabola through it and its two neighbours."""
    scores = iter(scores)
    best = last = next(scores)
    index = torch.zeros_like(best)
    before = after = torch.full_like(best, torch.nan)
    for k, score in enumerate(scores, start=1):
        after = torch.where(index == k - 1, score, after)
        is_better = score > best
        best = torch.where(is_better, score, best)
        index = torch.where(is_better, k, index)
        before = torch.where(is_better, last, before)
        after = torch.where(is_better, torch.nan, after)
        last = score
    bend = (2 * best - before - after).clamp(min=1e-6)
    shift = ((after - before) / (2 * bend)).clamp(-0.5, 0.5).nan_to_num(0)
    return Peak(score=best, index=index + shift)


def sweep(
    reference: StereoView,
    sources: Sequence[StereoView],
    near: float,
    far: float,
    options: SweepOptions,
) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    """Depth (z in the camera's frame, in the model's units; 0 = none) and score of each pixel.

    Depths are searched for from `near` to `far`. Memory does not grow with the hypotheses.

    Raises:
        ValueError: if there is no source, or the range is empty.
    """
    if not sources or not 0 < near < far < math.inf:
        raise ValueError(f"A sweep needs sources and 0 < near < far, not {near} and {far}.")
    inverse, step = _sweep_half_size(reference, sources, (1 / far, 1 / near), options)
    inverse = F.interpolate(inverse[None, None], size=reference.size, mode="bilinear")[0, 0]
    matcher = PhotoConsistency(reference, sources, options)
    for _ in range(options.refinements):
        inverse, score, step = _refine(matcher, inverse, step, options.refinement_hypotheses)
    is_valid = (score >= options.min_ncc) & (inverse >= 1 / far) & (inverse <= 1 / near)
    return torch.where(is_valid, 1 / inverse, 0), score


def _sweep_half_size(
    reference: StereoView,
    sources: Sequence[StereoView],
    span: tuple[float, float],
    options: SweepOptions,
) -> tuple[Float[Tensor, "h w"], float]:
    """Inverse depth at half the size, and the distance between planes."""
    matcher = PhotoConsistency(reference.halved(), [s.halved() for s in sources], options)
    step = (span[1] - span[0]) / (options.hypotheses - 1)
    peak = best_hypothesis(matcher(span[0] + k * step) for k in range(options.hypotheses))
    inverse = span[0] + peak.index * step
    inverse, _, _ = _refine(matcher, inverse, step, options.refinement_hypotheses)
    return _spread(matcher, median(inverse)), step


def _spread(matcher: PhotoConsistency, inverse: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Take over a neighbour's surface where it looks more alike.

    Frontal planes fail on steep surfaces: what was found of those grows here.
    """
    height, width = inverse.shape
    margin = max(SPREAD)
    padded = F.pad(inverse[None, None], [margin] * 4, mode="replicate")[0, 0]
    best, score = inverse, matcher(inverse)
    for dy, dx in [(s * k, s * (1 - k)) for k in (0, 1) for r in SPREAD for s in (r, -r)]:
        y, x = margin + dy, margin + dx
        candidate = padded[y : y + height, x : x + width]
        found = matcher(candidate)
        best = torch.where(found > score, candidate, best)
        score = torch.maximum(found, score)
    return best


def _refine(
    matcher: PhotoConsistency, inverse: Float[Tensor, "H W"], step: float, count: int
) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"], float]:
    """Surfaces up to 1.5 steps before and behind; inverse depth, score and their distance."""
    inverse = median(inverse)
    half = count // 2
    step = 1.5 * step / half
    peak = best_hypothesis(matcher(inverse + (k - half) * step) for k in range(2 * half + 1))
    return inverse + (peak.index - half) * step, peak.score, step


def median(values: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Median over a neighbourhood of 5 x 5 pixels; the border is repeated."""
    (height, width), window = values.shape, 5
    padded = F.pad(values[None, None], [window // 2] * 4, mode="replicate")[0, 0]
    shifted = [padded[i : i + height, j : j + width] for i in range(window) for j in range(window)]
    return torch.stack(shifted).median(dim=0).values
