"""A model covered with tracks: every cell of its images, searched for wherever it should be seen.

Matches find a cell in the images whose descriptors say so. A model says where all others show it,
to a pixel or two, and there a search on the shallow maps needs no descriptor: tracks grow long,
and cells that no match found have one too. Image after image, its cells that no track of an earlier
one covers are searched for in all others, and are the references of those places.
"""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import KDTree
from tqdm import tqdm

from d2_hloc.core import config
from d2_hloc.core.cache import BoundedCache
from d2_hloc.features.extracted import read_orientations
from d2_hloc.files import features_h5
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.staged_h5 import Staged, Value
from d2_hloc.matching.consistency import local_consistency
from d2_hloc.matching.pairs import Pair
from d2_hloc.matching.tracks import PairMatches
from d2_hloc.refinement.matches import refine_matches
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.refinement.patches import Outcome
from d2_hloc.refinement.shallow_maps import CACHE_BYTES, ImageMaps, MapReader, resize_max_of
from d2_hloc.refinement.spreading import free_keypoints
from d2_hloc.refinement.tracks import NOISE
from d2_hloc.sfm.searching.views import ModelView, distances_to_lines, expected, model_views

MAX_ERROR = 2.0  # pixels from the model's epipolar line; of the images that features are of
MAX_RETURN = 1.0  # pixels, likewise: from where the search back ends to where it came from
SUPPORT = 10.0  # of a place by those around it (consistency.local_consistency)
TOLERANCE = 0.25  # in units of 4 pixels, of that support
NEIGHBOURS = 16
MOST_VIEWS = 16  # in which an image's cells are searched for: those that see most of the same
REACH = 12.0  # pixels from a place to the free keypoint that is there from then on

Maps = BoundedCache[str, ImageMaps]


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Keypoints of a reference image, and where others show them; NaN: they do not."""

    index: np.ndarray  # (K,)
    others: tuple[str, ...]
    places: np.ndarray  # (M, K, 2), an image of `others` after the other; stored pixels


@dataclass(frozen=True, kw_only=True)
class Cover:
    """Keypoints that tracks have taken, at their places, and the matches of these with references.

    A keypoint is in one track at most.
    """

    keypoints: dict[str, np.ndarray]  # (N, 2)
    is_taken: dict[str, np.ndarray]  # (N,)
    is_moved: dict[str, np.ndarray]  # (N,)
    noise: Mapping[str, float]  # pixels in one of those that features were extracted from
    matches: dict[Pair, PairMatches] = field(default_factory=dict)

    @classmethod
    def of(cls, views: Mapping[str, ModelView]) -> Cover:
        """Nothing is covered yet."""
        return cls(
            keypoints={n: v.keypoints.copy() for n, v in views.items()},
            is_taken={n: np.zeros(len(v.keypoints), bool) for n, v in views.items()},
            is_moved={n: np.zeros(len(v.keypoints), bool) for n, v in views.items()},
            noise={n: v.noise for n, v in views.items()},
        )

    def add(self, reference: str, searched: Searched, trees: Mapping[str, KDTree]) -> None:
        """Take the keypoints of a reference image that others show, and those at their places."""
        is_found = np.asarray(np.isfinite(searched.places).all(axis=2))
        self.is_taken[reference][searched.index[is_found.any(axis=0)]] = True
        for name, places, found in zip(searched.others, searched.places, is_found, strict=True):
            rows = np.flatnonzero(found)
            reach = REACH * self.noise[name]
            taken = free_keypoints(trees[name], self.is_taken[name], places[rows], reach)
            rows, taken = rows[taken >= 0], taken[taken >= 0]
            self.keypoints[name][taken] = places[rows]
            self.is_taken[name][taken] = self.is_moved[name][taken] = True
            pairs = np.stack([searched.index[rows], taken], axis=1)
            self._join((reference, name), pairs)

    def _join(self, pair: Pair, pairs: np.ndarray) -> None:
        """Put matches (K, 2) beside those of the same images, in whichever order these are."""
        if pair[::-1] in self.matches:
            pair, pairs = (pair[1], pair[0]), pairs[:, ::-1]
        if pair in self.matches:
            pairs = np.concatenate([self.matches[pair].pairs, pairs])
        self.matches[pair] = PairMatches(pairs=pairs, scores=np.ones(len(pairs), np.float32))


def cover_model(
    options: RefinementOptions,
    model: pycolmap.Reconstruction,
    features: Path,
    images: Path,
    output: Path,
) -> dict[Pair, PairMatches]:
    """Matches of every cell with the places where a search finds it, led by a model.

    Keypoints go to `output` as refine_tracks() writes them: each place has taken one of the
    image's own keypoints near it. References that a killed run had done are not searched for again.

    Raises:
        ImageError: if an image is no longer there.
        ConfigurationChanged, DiskFull: as staged_h5.Staged.
    """
    views = model_views(model, features)
    made_by = {
        "covered by": config.to_dict(options),
        "features": features_h5.read_configuration(features),
    }
    reader = MapReader(resize_max_of(features), options.precision)
    maps = reader.of(images, CACHE_BYTES, 2, read_orientations(features))
    work = output.with_name(f"{output.stem}-{_digest(made_by, views):08x}.h5.parts")
    work.mkdir(exist_ok=True)
    cover, trees = Cover.of(views), {n: KDTree(v.keypoints) for n, v in views.items()}
    order = sorted(views, key=lambda name: (-len(views[name].point_ids), name))
    for k, name in enumerate(tqdm(order, desc="cover", unit="image")):
        index, others = np.flatnonzero(~cover.is_taken[name]), seeing_the_same(views, name)
        given = options, views, maps, name, index, others
        places = _kept(work / f"{k}.npy", partial(search_all, *given))
        cover.add(name, Searched(index=index, others=others, places=places), trees)
    _write(cover, features, output, made_by)
    for path in output.parent.glob(f"{output.stem}-{'[0-9a-f]' * 8}.h5.parts"):
        shutil.rmtree(path)
    return cover.matches


def seeing_the_same(views: Mapping[str, ModelView], name: str) -> tuple[str, ...]:
    """The images that observe most of the points that one observes, the first of them first."""
    ids = views[name].point_ids
    common = {n: int(np.isin(v.point_ids, ids).sum()) for n, v in views.items() if n != name}
    return tuple(sorted(common, key=lambda n: (-common[n], n))[:MOST_VIEWS])


def search_all(
    options: RefinementOptions,
    views: Mapping[str, ModelView],
    maps: Maps,
    name: str,
    index: np.ndarray,
    others: Sequence[str],
) -> np.ndarray:
    """Places (M, K, 2) of an image's keypoints in others, as Searched has them."""
    xy0 = views[name].keypoints[index]
    places = np.full((len(others), len(index), 2), np.nan, np.float32)
    for row, other in zip(places, others, strict=True):
        found, xy1 = search(options, (views[name], views[other]), (maps[name], maps[other]), xy0)
        row[found] = xy1
    return places


def search(
    options: RefinementOptions,
    views: tuple[ModelView, ModelView],
    maps: tuple[ImageMaps, ImageMaps],
    xy0: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Search in a second image for what a first shows at `xy0` (K, 2), led by their model.

    Returns the indices (M,) of what was found, and the places (M, 2), stored pixels. They fit the
    epipolar geometry of the model, and those around them.
    """
    nothing = np.empty(0, np.int64), np.empty((0, 2))
    where = expected(*views, xy0)
    if where is None or not len(where.index):
        return nothing
    xy0, (from0, to1) = xy0[where.index], where.around
    around = torch.from_numpy(from0).float(), torch.from_numpy(to1).float()
    both = torch.from_numpy(xy0).float(), torch.from_numpy(where.xy).float()
    moved = refine_matches(options, *maps, *both, around)
    xy1, noise = moved.xy.double().numpy(), views[1].noise
    fits = (moved.outcomes == Outcome.MOVED).numpy()
    fits &= distances_to_lines(*views, xy0, xy1) < MAX_ERROR * noise
    matched = xy0[fits], xy1[fits]
    fits[fits] = comes_back(options, maps, *matched, around) < MAX_RETURN * views[0].noise
    area = (options.searched * noise) ** 2
    agreement = local_consistency(
        xy0[fits], xy1[fits], area, neighbours=NEIGHBOURS, noise=TOLERANCE * noise
    )
    fits[fits] = agreement.support > SUPPORT
    return where.index[fits], xy1[fits]


def comes_back(
    options: RefinementOptions,
    maps: tuple[ImageMaps, ImageMaps],
    xy0: np.ndarray,
    xy1: np.ndarray,
    around: tuple[torch.Tensor, torch.Tensor],
) -> np.ndarray:
    """How far from `xy0` (K, 2) the search for `xy1` in the first image ends; inf: nowhere."""
    both = torch.from_numpy(xy1).float(), torch.from_numpy(xy0).float()
    found = refine_matches(options, maps[1], maps[0], *both, (around[1], around[0]))
    distances = np.linalg.norm(found.xy.double().numpy() - xy0, axis=1)
    return np.where(found.outcomes == Outcome.MOVED, distances, np.inf)


def _kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Read an array that a killed run had made, or make it."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        made, data = make(), io.BytesIO()
        np.save(data, made)
        write_atomically(path, data.getvalue())
        return made


def _write(cover: Cover, features: Path, output: Path, made_by: dict) -> None:
    """Write keypoints as refine_tracks() does; of images without a pose as they were extracted."""
    output.unlink(missing_ok=True)  # of another model
    with features_h5.open_h5(features) as file, Staged(output, made_by, "keypoints") as staged:
        for name in features_h5.extracted_names(features):
            xy = features_h5.keypoints_of(file, name)
            attributes, outcomes = dict(file[name]["keypoints"].attrs), np.full(len(xy), -1)
            if name in cover.keypoints:
                xy = cover.keypoints[name].astype(np.float32)
                outcomes[cover.is_moved[name]] = int(Outcome.MOVED)
                attributes = {"uncertainty": NOISE * cover.noise[name]}
            record = {"keypoints": Value(xy, attributes)}
            staged.add(name, record | {"outcomes": Value(outcomes.astype(np.int8))})


def _digest(made_by: dict, views: Mapping[str, ModelView]) -> int:
    """Checksum that tells the work of one run from that of a run with another model."""
    digest = zlib.crc32(repr(made_by).encode())
    for name in sorted(views):
        view = views[name]
        pose = view.image.cam_from_world().matrix()
        for values in (view.keypoints, view.point_ids, view.xyz, pose, view.camera.params):
            data = np.ascontiguousarray(values)
            digest = zlib.crc32(data.data, zlib.crc32(name.encode(), digest))
    return digest
