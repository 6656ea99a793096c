"""features.h5 + verified matches -> refined.h5: keypoints moved, track by track (a step)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from d2_hloc import config, storage
from d2_hloc.bounded_cache import BoundedCache
from d2_hloc.d2net import D2Net, D2NetOptions
from d2_hloc.images import fit, read_image
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
from d2_hloc.tracks import PairMatches, Tracks, build_tracks, matches_between

logger = logging.getLogger(__name__)

CACHE_BYTES = 2 << 30  # of shallow maps held at once
PAIR_CACHE_BYTES = 512 << 20  # for pairs that come image by image
BLOCK = 4  # images; pairs are ordered so that blocks of them stay in the cache
NOISE = 0.3  # pixels: a moved keypoint's standard deviation (hloc's uncertainty)


@dataclass(frozen=True, kw_only=True)
class ImageMaps:
    """Shallow maps of an image, and its size when they were made over its original size (x, y)."""

    maps: ShallowMaps
    scale: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.maps.nbytes

    def to_maps(self, xy: Tensor) -> Tensor:
        """Original pixels -> those of the maps."""
        return rescale(xy, torch.from_numpy(self.scale)).float()

    def to_original(self, xy: Tensor) -> Tensor:
        """Pixels of the maps -> original ones."""
        return rescale(xy.double(), torch.from_numpy(1 / self.scale)).float()


class MapReader:
    """Shallow maps of images at the size that features were extracted at."""

    def __init__(self, resize_max: int | None) -> None:
        # Half the time where the processor multiplies bfloat16 matrices itself.
        precision = "bfloat16" if torch.cpu._is_amx_tile_supported() else "float32"
        self._backbone = D2Net(D2NetOptions(precision=precision)).backbone
        self._resize_max = resize_max

    def of(self, folder: Path, capacity: int, at_least: int) -> BoundedCache[str, ImageMaps]:
        """Those of a folder's images by name, made once while they are in use.

        Looking one up raises ImageError if the image is no longer there.
        """
        return BoundedCache(lambda name: self._read(folder / name), capacity, at_least)

    def _read(self, path: Path) -> ImageMaps:
        image, original = read_image(path, self._resize_max)
        scale = np.array([image.shape[2], image.shape[1]]) / original
        return ImageMaps(maps=shallow_maps(self._backbone, image), scale=scale)


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
        raw = {n: dict(file[n]["keypoints"].attrs) for n in names}
        sizes = {n: storage.image_size_of(file, n) for n in names}
    resize_max = resize_max_of(features)
    enlargement = {n: max(s) / max(fit(s, resize_max)) for n, s in sizes.items()}
    tracks = build_tracks({n: len(xy) for n, xy in keypoints.items()}, verified)
    maps = MapReader(resize_max).of(images, CACHE_BYTES, at_least=2)
    refined, outcomes = move_tracks(options, maps, tracks, keypoints, verified)
    with Staged(output, made_by, "keypoints") as staged:
        for name in names:
            moved = bool((outcomes[name] == Outcome.MOVED).any())
            attributes = {"uncertainty": NOISE * enlargement[name]} if moved else raw[name]
            record = {"keypoints": Value(refined[name].numpy(), attributes)}
            staged.add(name, record | {"outcomes": Value(outcomes[name].numpy().astype(np.int8))})
    return output, count_outcomes(torch.cat([outcomes[n] for n in names]))


def move_tracks(
    options: RefinementOptions,
    maps: BoundedCache[str, ImageMaps],
    tracks: Tracks,
    keypoints: Mapping[str, Tensor],
    verified: Mapping[Pair, PairMatches],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Keypoints (N, 2) by image, those of tracks moved, and all their outcomes, -1 where in none.

    Patches are warped by the verified matches around them.
    """
    refined = {n: xy.clone() for n, xy in keypoints.items()}
    outcomes = {n: torch.full((len(xy),), -1) for n, xy in keypoints.items()}
    jobs = jobs_of(tracks)
    order = order_for_reuse(list(jobs), BLOCK)
    for name0, name1 in tqdm(order, desc="refine keypoints", unit="pair"):
        index0, index1 = torch.from_numpy(jobs[name0, name1]).unbind(dim=1)
        known = torch.from_numpy(matches_between(verified, name0, name1).astype(np.int64))
        xy0, xy1 = keypoints[name0], keypoints[name1]
        around = (xy0[known[:, 0]], xy1[known[:, 1]])
        found = _refine(options, maps[name0], maps[name1], xy0[index0], xy1[index1], around)
        refined[name1][index1], outcomes[name1][index1] = found
    return refined, outcomes


def jobs_of(tracks: Tracks) -> dict[Pair, np.ndarray]:
    """By (reference's image, other image), the (K, 2) keypoint indices to refine."""
    jobs: dict[Pair, list[tuple[int, int]]] = defaultdict(list)
    for images, keypoints in zip(tracks.images, tracks.keypoints, strict=True):
        reference = tracks.names[images[0]]
        for image, keypoint in zip(images[1:].tolist(), keypoints[1:].tolist(), strict=True):
            jobs[reference, tracks.names[image]].append((int(keypoints[0]), keypoint))
    return {pair: np.array(index) for pair, index in jobs.items()}


def resize_max_of(features: Path) -> int | None:
    """The longest edge of the images that features were extracted from; None: they were whole."""
    return (storage.configuration(features) or {}).get("resize_max")


def _refine(
    options: RefinementOptions,
    image0: ImageMaps,
    image1: ImageMaps,
    xy0: Tensor,
    xy1: Tensor,
    around: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """New places of xy1, and outcomes; `around` are matches of the two images. Original pixels."""
    xy0, from0 = image0.to_maps(xy0), image0.to_maps(around[0])
    moved, to1 = image1.to_maps(xy1), image1.to_maps(around[1])
    affinities = local_affinities(from0, to1, xy0, options.neighbours)
    found = refine_pairs(options, image0.maps, image1.maps, xy0, moved, affinities)
    is_moved = (found.outcomes == Outcome.MOVED)[:, None]
    return torch.where(is_moved, image1.to_original(found.xy), xy1), found.outcomes


class PairRefiner:
    """Moves the second keypoint of each match of a pair; the pair's matches are its affinities'."""

    def __init__(self, options: RefinementOptions, images: Path, resize_max: int | None) -> None:
        self._options = options
        self._maps = MapReader(resize_max).of(images, PAIR_CACHE_BYTES, at_least=2)

    def __call__(
        self, pair: Pair, xy0: np.ndarray, xy1: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Matched keypoints (K, 2) of two images, original pixels -> the same, refined."""
        both = torch.from_numpy(xy0), torch.from_numpy(xy1)
        moved, _ = _refine(self._options, *(self._maps[n] for n in pair), *both, around=both)
        return xy0, moved.numpy()


class QueryRefiner:
    """Moves keypoints of queries to where 3D points, as images of the model show them, are seen."""

    def __init__(
        self, options: RefinementOptions, images: Path, queries: Path, resize_max: int | None
    ) -> None:
        reader = MapReader(resize_max)
        self._options = options
        self._images = reader.of(images, CACHE_BYTES, at_least=1)
        self._queries = reader.of(queries, PAIR_CACHE_BYTES, at_least=1)

    def __call__(
        self, query: str, image: str, xy: np.ndarray, projected: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Matched keypoints (K, 2) of a query, and where the model's image shows their points.

        Returns the keypoints' new places, original pixels, and a mask (K,) of those that were
        moved.
        """
        both = torch.from_numpy(projected).float(), torch.from_numpy(xy)
        maps = self._images[image], self._queries[query]
        found, outcomes = _refine(self._options, *maps, *both, around=both)
        return found.numpy(), (outcomes == Outcome.MOVED).numpy()
