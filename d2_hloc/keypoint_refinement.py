"""features.h5 + verified matches -> refined.h5: keypoints moved, track by track (a step)."""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from d2_hloc import config, storage
from d2_hloc.d2net import D2Net, D2NetOptions
from d2_hloc.images import read_image
from d2_hloc.pairs import Pair, order_for_reuse
from d2_hloc.pixels import rescale
from d2_hloc.refinement import (
    Outcome,
    RefinementOptions,
    ShallowMaps,
    count_outcomes,
    local_affinities,
    refine_pairs,
    shallow_maps,
)
from d2_hloc.staging import Staged, Value
from d2_hloc.tracks import PairMatches, Tracks, build_tracks

logger = logging.getLogger(__name__)

CACHE_BYTES = 2 << 30  # of shallow maps held at once
PAIR_CACHE_BYTES = 512 << 20  # for pairs that come image by image
BLOCK = 4  # images; pairs are ordered so that blocks of them stay in the cache
NOISE = 0.3  # pixels: a moved keypoint's standard deviation (hloc's uncertainty)
PRECISION = "bfloat16" if torch.cpu._is_amx_tile_supported() else "float32"


class MapCache:
    """Shallow maps of a folder's images at the size that features were extracted at."""

    def __init__(self, images: Path, resize_max: int | None, capacity: int = CACHE_BYTES) -> None:
        self._images, self._resize_max, self._capacity = images, resize_max, capacity
        self._backbone = D2Net(D2NetOptions(precision=PRECISION)).backbone
        self._held: OrderedDict[str, tuple[ShallowMaps, np.ndarray]] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, name: str) -> tuple[ShallowMaps, np.ndarray]:
        """Maps of an image, and its size at extraction over its original size (x, y).

        Raises:
            ImageError: if the image is no longer there.
        """
        if name not in self._held:
            image, original = read_image(self._images / name, self._resize_max)
            scale = np.array([image.shape[2], image.shape[1]]) / original
            maps = shallow_maps(self._backbone, image)
            self._held[name] = maps, scale
            self._bytes += maps.nbytes
        self._held.move_to_end(name)
        found = self._held[name]
        while self._bytes > self._capacity and len(self._held) > 2:
            self._bytes -= self._held.popitem(last=False)[1][0].nbytes
        return found


def refine_tracks(
    options: RefinementOptions,
    images: Path,
    features: Path,
    verified: Mapping[Pair, PairMatches],
    output: Path,
) -> tuple[Path, dict[str, int]]:
    """Move all keypoints of each track to where its reference's patch is found in their image.

    Writes hloc's form, keypoints alone, with the record of what they came from; keypoints that are
    in no track or could not be moved stay as they are. Returns the file and how many were moved,
    and kept for which reason.

    Raises:
        ImageError: if an image is no longer there.
        ConfigurationChanged, DiskFull: as staging.Staged.
    """
    made_by = {"refinement": config.to_dict(options), "features": storage.configuration(features)}
    with storage.open_h5(features) as file:
        names = storage.image_names(features)
        keypoints = {n: torch.from_numpy(storage.keypoints_of(file, n)) for n in names}
    tracks = build_tracks({n: len(xy) for n, xy in keypoints.items()}, verified)
    cache = MapCache(images, (made_by["features"] or {}).get("resize_max"))
    refined = {n: xy.clone() for n, xy in keypoints.items()}
    outcomes = {n: torch.full((len(xy),), -1) for n, xy in keypoints.items()}
    jobs = jobs_of(tracks)
    order = order_for_reuse(list(jobs), BLOCK)
    for name0, name1 in tqdm(order, desc="refine keypoints", unit="pair"):
        index0, index1 = torch.from_numpy(jobs[name0, name1]).unbind(dim=1)
        known = _between(verified, name0, name1)
        xy0, xy1 = keypoints[name0], keypoints[name1]
        around = (xy0[known[:, 0]], xy1[known[:, 1]])
        found = _refine(options, cache, (name0, name1), xy0[index0], xy1[index1], around)
        refined[name1][index1], outcomes[name1][index1] = found
    with Staged(output, made_by, "keypoints") as staged:
        for name in names:
            moved = outcomes[name] == Outcome.MOVED
            uncertainty = NOISE if moved.any() else 1.0
            record = {"keypoints": Value(refined[name].numpy(), {"uncertainty": uncertainty})}
            staged.add(name, record | {"outcomes": Value(outcomes[name].numpy().astype(np.int8))})
    return output, count_outcomes(torch.cat([outcomes[n] for n in names]))


def jobs_of(tracks: Tracks) -> dict[Pair, np.ndarray]:
    """By (reference's image, other image), the (K, 2) keypoint indices to refine."""
    jobs: dict[Pair, list[tuple[int, int]]] = defaultdict(list)
    for images, keypoints in zip(tracks.images, tracks.keypoints, strict=True):
        reference = tracks.names[images[0]]
        for image, keypoint in zip(images[1:].tolist(), keypoints[1:].tolist(), strict=True):
            jobs[reference, tracks.names[image]].append((int(keypoints[0]), keypoint))
    return {pair: np.array(index) for pair, index in jobs.items()}


def _between(verified: Mapping[Pair, PairMatches], name0: str, name1: str) -> Tensor:
    """Verified matches of two images, in whichever order they are there."""
    if (name0, name1) in verified:
        return torch.from_numpy(verified[name0, name1].pairs.astype(np.int64))
    if (name1, name0) in verified:
        return torch.from_numpy(verified[name1, name0].pairs[:, ::-1].astype(np.int64))
    return torch.empty(0, 2, dtype=torch.int64)


def _refine(
    options: RefinementOptions,
    cache: MapCache,
    names: Pair,
    xy0: Tensor,
    xy1: Tensor,
    around: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """New places of xy1 in original pixels, and outcomes; all places are in original pixels."""
    (maps0, scale0), (maps1, scale1) = cache[names[0]], cache[names[1]]
    to0, to1 = (lambda xy, s=s: rescale(xy, torch.from_numpy(s)).float() for s in (scale0, scale1))
    affinities = local_affinities(to0(around[0]), to1(around[1]), to0(xy0), options.neighbours)
    found = refine_pairs(options, maps0, maps1, to0(xy0), to1(xy1), affinities)
    moved = rescale(found.xy.double(), torch.from_numpy(1 / scale1)).float()
    return torch.where((found.outcomes == Outcome.MOVED)[:, None], moved, xy1), found.outcomes


class PairRefiner:
    """Moves the second keypoint of each match of a pair; the pair's matches are its affinities'."""

    def __init__(self, options: RefinementOptions, images: Path, resize_max: int | None) -> None:
        self._options, self._cache = options, MapCache(images, resize_max, PAIR_CACHE_BYTES)

    def __call__(
        self, pair: Pair, xy0: np.ndarray, xy1: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Matched keypoints (K, 2) of two images, original pixels -> the same, refined."""
        both = torch.from_numpy(xy0), torch.from_numpy(xy1)
        moved, _ = _refine(self._options, self._cache, pair, *both, around=both)
        return xy0, moved.numpy()
