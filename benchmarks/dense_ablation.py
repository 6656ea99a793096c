"""Measure each part of dense matches: levels, corners, windows, projection, ratio, agreement.

    python benchmarks/dense_ablation.py --photos FOLDER [--count 12] [--only TEXT]

Photographs are matched with themselves as another camera would show them: a random homography
(corners moved by up to a fifth of the picture), another exposure, noise. Means over photographs:
matches, how many are within 1 and 3 pixels of where the homography leads, the shares of these, and
seconds of processor time from two prepared images to matches, on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from kornia.geometry import get_perspective_transform, warp_perspective
from tqdm import tqdm

from d2_hloc.core.homography_metrics import transfer
from d2_hloc.core.images import read_image
from d2_hloc.core.listing import list_images
from d2_hloc.core.ranges import MANY
from d2_hloc.matching.options import GrowingOptions
from d2_hloc.network.options import CellOptions
from d2_hloc.refinement import coarse_to_fine as levels
from d2_hloc.refinement.coarse_to_fine import CoarseToFineOptions, ImageStages, Places
from d2_hloc.refinement.image_matches import ImageMatcher, ImageMatchingOptions
from d2_hloc.refinement.options import RefinementOptions

DEFAULT = CoarseToFineOptions()
SHIFT = 0.2  # of the picture, of its corners
CELL = 8  # pixels

Level = Callable[[CoarseToFineOptions, ImageStages, ImageStages, Places], Places]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to match."""

    levels: tuple[Level, ...] = (levels.match_conv3, levels.split_cells, levels.match_shallow)
    options: CoarseToFineOptions = DEFAULT
    dimensions: int | None = 128
    on_corners: bool = True


def with_fine(**values) -> CoarseToFineOptions:
    """The default levels with other options of the last search."""
    return replace(DEFAULT, fine=replace(DEFAULT.fine, **values))


def with_coarse(**values) -> CoarseToFineOptions:
    """The default levels with another rule of matching cells."""
    return replace(DEFAULT, coarse=replace(DEFAULT.coarse, **values))


REACHING = RefinementOptions(enabled=True).reaching(float(CELL))
VARIANTS = {
    "all levels, the default": Variant(),
    "cells alone (conv4)": Variant(levels=()),
    "cells, mutual neighbours alone": Variant(
        levels=(), options=with_coarse(growing=GrowingOptions(min_support=MANY))
    ),
    "until conv3": Variant(levels=(levels.match_conv3,)),
    "without conv3": Variant(
        levels=(levels.split_cells, levels.match_shallow),
        options=replace(DEFAULT, fine=REACHING),
    ),
    "without splitting cells": Variant(levels=(levels.match_conv3, levels.match_shallow)),
    "without conv1": Variant(options=with_fine(fine_window=0)),
    "at centres instead of corners": Variant(on_corners=False),
    "conv3 in 16 pixels": Variant(options=replace(DEFAULT, deep_window=5)),
    "conv2 in 2 pixels": Variant(options=with_fine(coarse_window=2)),
    "conv2 in 8 pixels": Variant(options=with_fine(coarse_window=5)),
    "descriptors of 64 numbers": Variant(dimensions=64),
    "descriptors of 256 numbers": Variant(dimensions=256),
    "descriptors whole, 512": Variant(dimensions=None),
    "ratio .95 of cells": Variant(options=with_coarse(ratio_threshold=0.95)),
    "ratio .9 of cells": Variant(options=with_coarse(ratio_threshold=0.9)),
    "no agreement asked": Variant(options=replace(DEFAULT, agreement=(0.0, 0.0))),
    "agreement 6, 6": Variant(options=replace(DEFAULT, agreement=(6.0, 6.0))),
    "agreement 6, 20": Variant(options=replace(DEFAULT, agreement=(6.0, 20.0))),
    "agreement 10, 10": Variant(options=replace(DEFAULT, agreement=(10.0, 10.0))),
}


def another_view(image: torch.Tensor, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """The picture as another camera shows it, and the homography (3, 3) that leads there."""
    rng = np.random.default_rng(seed)
    height, width = image.shape[1:]
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)
    moved = corners + rng.uniform(-SHIFT, SHIFT, (4, 2)) * [width, height]
    given = [torch.from_numpy(c)[None].float() for c in (corners, moved)]
    homography = get_perspective_transform(given[0], given[1])
    warped = warp_perspective(image[None], homography, (height, width))[0]
    seen = rng.uniform(0.6, 1.0) * warped.clamp(0, 1) ** rng.uniform(0.6, 1.6)
    noise = torch.from_numpy(rng.normal(0, 0.01, tuple(seen.shape))).float()
    return (seen + noise).clamp(0, 1), homography[0].numpy().astype(float)


def at_centres(stages: ImageStages) -> ImageStages:
    """The same image with keypoints at the centres of cells and of their parts."""
    centres = stages.cells.field.xy // CELL * CELL + (CELL - 1) / 2
    field = replace(stages.cells.field, xy=centres)
    side = CELL // DEFAULT.split
    parts = stages.corners // side * side + side // 2
    return replace(stages, cells=replace(stages.cells, field=field), corners=parts)


def match(variant: Variant, images: list[ImageStages]) -> Places:
    """Matches through the variant's levels; none where they run out."""
    found = levels.match_cells(variant.options, images[0], images[1])
    for level in variant.levels:
        if len(found) <= variant.options.neighbours:
            return found.of(torch.zeros(len(found), dtype=torch.bool))
        found = level(variant.options, images[0], images[1], found)
    return found


def measure(
    variants: dict[str, Variant], paths: list[Path], edge: int
) -> Iterator[tuple[str, list[list[float]]]]:
    """The numbers of each variant, photograph by photograph."""
    matchers = {
        d: ImageMatcher(ImageMatchingOptions(cells=CellOptions(dimensions=d)))
        for d in dict.fromkeys(v.dimensions for v in variants.values())
    }
    rows: dict[str, list[list[float]]] = {name: [] for name in variants}
    for seed, path in enumerate(tqdm(paths, unit="photograph")):
        image = read_image(path, edge)[0]
        other, homography = another_view(image, seed)
        prepared = {d: [m.prepare(i).stages for i in (image, other)] for d, m in matchers.items()}
        for name, variant in variants.items():
            images = prepared[variant.dimensions]
            images = images if variant.on_corners else [at_centres(i) for i in images]
            begin = time.process_time()
            found = match(variant, images)
            seconds = time.process_time() - begin
            xy0, xy1 = found.xy0.numpy().astype(float), found.xy1.numpy().astype(float)
            errors = np.linalg.norm(transfer(xy0, homography) - xy1, axis=1)
            right = [float((errors < e).sum()) for e in (1, 3)]
            rows[name].append(
                [len(found), *right, *(r / max(1, len(found)) for r in right), seconds]
            )
    yield from rows.items()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=12, help="photographs, at even distances")
    parser.add_argument("--resize-max", type=int, default=768)
    parser.add_argument("--only", default="", help="variants whose name has this in it")
    args = parser.parse_args()
    variants = {name: v for name, v in VARIANTS.items() if args.only in name}
    torch.set_num_threads(1)
    names = list_images(args.photos)
    chosen = np.unique(np.linspace(0, len(names) - 1, args.count).astype(int))
    print("|variant|matches|within 1 px|3 px|share, 1 px|3 px|s|\n|---|" + "---:|" * 6)
    paths = [args.photos / names[k] for k in chosen]
    for name, values in measure(variants, paths, args.resize_max):
        mean = np.mean(values, axis=0)
        numbers = [f"{v:.0f}" for v in mean[:3]] + [f"{v:.3f}" for v in mean[3:5]]
        print(f"|{name}|{'|'.join(numbers)}|{mean[5]:.2f}|")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
