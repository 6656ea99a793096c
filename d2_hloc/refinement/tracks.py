"""features.h5 + verified matches -> refined.h5: keypoints moved, track by track (a step)."""

from __future__ import annotations

import shutil
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from d2_hloc.core import config
from d2_hloc.core.cache import BoundedCache
from d2_hloc.core.devices import chosen_device
from d2_hloc.core.images import enlargement
from d2_hloc.core.threads import a_few_ahead
from d2_hloc.features.extracted import read_orientations
from d2_hloc.files import features_h5
from d2_hloc.files.staged_h5 import Staged, Value
from d2_hloc.matching.pairs import Pair, order_for_reuse
from d2_hloc.matching.tracks import PairMatches, Tracks, build_tracks, matches_between
from d2_hloc.refinement.matches import refine_matches
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.refinement.patches import Outcome, Refined, count_outcomes
from d2_hloc.refinement.shallow_maps import CACHE_BYTES, ImageMaps, MapReader, resize_max_of
from d2_hloc.refinement.uncertainty import FLOOR

BLOCK = 4  # images; pairs are ordered so that blocks of them stay in the cache
READERS = 2  # threads that read the images of pairs ahead of a GPU
NOISE = 0.3  # pixels: a moved keypoint's standard deviation (hloc's uncertainty)

Jobs = Mapping[Pair, np.ndarray]  # (reference's image, other): (K, 2) keypoint indices
FORM = 2  # of the work of a run


@dataclass(frozen=True, kw_only=True)
class RefinedTracks:
    """Refined keypoints in a file of hloc's format.

    `outcomes` counts the keypoints of tracks by what became of them: how many were moved, and how
    many were kept for which reason.
    """

    path: Path
    outcomes: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> RefinedTracks:
        """Count the outcomes that an existing file holds.

        Raises:
            StorageError: if the file is missing, or not what refine_tracks() writes.
        """
        with features_h5.open_h5(path) as file:
            names = sorted(file.keys_with("outcomes"))
            outcomes = [torch.from_numpy(file[name]["outcomes"][()]) for name in names]
        return cls(
            path=path,
            outcomes=count_outcomes(torch.cat([torch.empty(0, dtype=torch.int8), *outcomes])),
        )


def refine_tracks(
    options: RefinementOptions,
    images: Path,
    features: Path,
    verified: Mapping[Pair, PairMatches],
    output: Path,
) -> RefinedTracks:
    """Move all keypoints of each track to where its reference's patch is found in their image.

    Writes hloc's form, keypoints alone, with the record of what they came from, and their standard
    deviations; keypoints that are in no track or could not be moved stay as they are. Pairs that a
    killed run had done are not done again.

    Raises:
        ImageError: if an image is no longer there.
        ConfigurationChanged, DiskFull: as staged_h5.Staged.
    """
    made_by = {
        "refinement": config.to_dict(options),
        "features": features_h5.read_configuration(features),
    }
    with features_h5.open_h5(features) as file:
        names = features_h5.extracted_names(features)
        keypoints = {n: torch.from_numpy(features_h5.keypoints_of(file, n)) for n in names}
        raw = {n: dict(file[n]["keypoints"].attrs) for n in names}
        sizes = {n: features_h5.image_size_of(file, n) for n in names}
    resize_max = resize_max_of(features)
    enlargements = {n: enlargement(s, resize_max) for n, s in sizes.items()}
    jobs = jobs_of(build_tracks({n: len(xy) for n, xy in keypoints.items()}, verified))
    turned = read_orientations(features)
    maps = MapReader(resize_max, options.precision).of(images, CACHE_BYTES, 2, turned)
    work = output.with_name(f"{output.stem}-{_digest(made_by, keypoints, verified):08x}.h5")
    with Staged(work, made_by, "xy") as staged:
        for pair, moved in move_pairs(options, maps, jobs, keypoints, verified, staged.done):
            values = {k: Value(v.numpy()) for k, v in vars(moved).items()}
            staged.add(features_h5.pair_key(*pair), values)
    moved = list(_read_moved(work, jobs))
    refined, outcomes = put_together(jobs, keypoints, moved)
    deviations = deviations_of(jobs, keypoints, moved, enlargements)
    with Staged(output, made_by, "keypoints") as staged:
        for name in names:
            any_moved = bool((outcomes[name] == Outcome.MOVED).any())
            attributes = {"uncertainty": NOISE * enlargements[name]} if any_moved else raw[name]
            record = {
                "keypoints": Value(refined[name].numpy(), attributes),
                "outcomes": Value(outcomes[name].numpy().astype(np.int8)),
                "deviations": Value(deviations[name].numpy()),
            }
            staged.add(name, record)
    _clear(output)
    return RefinedTracks(
        path=output, outcomes=count_outcomes(torch.cat([outcomes[n] for n in names]))
    )


def jobs_of(tracks: Tracks) -> Jobs:
    """Keypoints to refine: in each track, from its reference to its others."""
    jobs: dict[Pair, list[tuple[int, int]]] = defaultdict(list)
    for images, keypoints in zip(tracks.images, tracks.keypoints, strict=True):
        reference = tracks.names[images[0]]
        for image, keypoint in zip(images[1:].tolist(), keypoints[1:].tolist(), strict=True):
            jobs[reference, tracks.names[image]].append((int(keypoints[0]), keypoint))
    return {pair: np.array(index) for pair, index in jobs.items()}


def move_pairs(
    options: RefinementOptions,
    maps: BoundedCache[str, ImageMaps],
    jobs: Jobs,
    keypoints: Mapping[str, Tensor],
    verified: Mapping[Pair, PairMatches],
    done: Collection[str] = (),
) -> Iterator[tuple[Pair, Refined]]:
    """Move the keypoints of the second image, pair by pair; those whose key is `done` are left out.

    Patches are warped by the verified matches around them.
    """
    todo = [pair for pair in jobs if features_h5.pair_key(*pair) not in done]
    ordered = order_for_reuse(todo, BLOCK)
    ahead = 1 if chosen_device().type == "cpu" else READERS
    read = a_few_ahead(lambda pair: (maps[pair[0]], maps[pair[1]]), ordered, ahead)
    for name0, name1 in tqdm(ordered, desc="refine keypoints", unit="pair"):
        index0, index1 = torch.from_numpy(jobs[name0, name1]).unbind(dim=1)
        known = torch.from_numpy(matches_between(verified, name0, name1).astype(np.int64))
        xy0, xy1 = keypoints[name0], keypoints[name1]
        around = (xy0[known[:, 0]], xy1[known[:, 1]])
        image0, image1 = next(read)
        found = refine_matches(options, image0, image1, xy0[index0], xy1[index1], around)
        del image0, image1  # before the next are read
        yield (name0, name1), found


def put_together(
    jobs: Jobs, keypoints: Mapping[str, Tensor], moved: Iterable[tuple[Pair, Refined]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Keypoints (N, 2) by image, those of tracks moved, and their outcomes; -1: in no track."""
    refined = {n: xy.clone() for n, xy in keypoints.items()}
    outcomes = {n: torch.full((len(xy),), -1) for n, xy in keypoints.items()}
    for pair, found in moved:
        index = torch.from_numpy(jobs[pair][:, 1])
        refined[pair[1]][index], outcomes[pair[1]][index] = found.xy, found.outcomes
    return refined, outcomes


def deviations_of(
    jobs: Jobs,
    keypoints: Mapping[str, Tensor],
    moved: Iterable[tuple[Pair, Refined]],
    enlargements: Mapping[str, float],
) -> dict[str, Tensor]:
    """Standard deviations (N,) of keypoints by image, in stored pixels; NaN: not known.

    The reference of a track says where the others are, and is exact but for FLOOR.
    """
    found = {n: torch.full((len(xy),), torch.nan) for n, xy in keypoints.items()}
    for pair, refined in moved:
        references, others = torch.from_numpy(jobs[pair]).unbind(dim=1)
        found[pair[0]][references] = FLOOR * enlargements[pair[0]]
        found[pair[1]][others] = refined.deviations
    return found


def read_deviations(path: Path) -> dict[str, np.ndarray]:
    """Standard deviations (N,) of refined keypoints by image, pixels; none in a file without.

    Raises:
        StorageError: if the file cannot be used.
    """
    with features_h5.open_h5(path) as file:
        found = {name: file[name]["deviations"][()] for name in file.keys_with("deviations")}
    for name, deviations in found.items():
        if deviations.ndim != 1 or deviations.dtype.kind != "f":
            raise features_h5.StorageError(
                f"{path}: the deviations of {name} are not one number a keypoint; delete the file, "
                "and it is made again."
            )
    return found


def _read_moved(work: Path, jobs: Jobs) -> Iterator[tuple[Pair, Refined]]:
    with features_h5.open_h5(work) as file:
        for pair in jobs:
            group = file[features_h5.pair_key(*pair)]
            names = "xy", "outcomes", "deviations"
            yield pair, Refined(**{name: torch.from_numpy(group[name][()]) for name in names})


def _digest(
    made_by: dict, keypoints: Mapping[str, Tensor], verified: Mapping[Pair, PairMatches]
) -> int:
    """Checksum that tells the work of one run from that of a run with other matches."""
    digest = zlib.crc32(repr((FORM, made_by)).encode())
    for name, xy in keypoints.items():
        digest = zlib.crc32(np.ascontiguousarray(xy).data, zlib.crc32(name.encode(), digest))
    for pair in sorted(verified):
        matches = np.ascontiguousarray(verified[pair].pairs)
        digest = zlib.crc32(matches.data, zlib.crc32(repr(pair).encode(), digest))
    return digest


def _clear(output: Path) -> None:
    """Delete the work of this run, and of runs with other matches that were never finished."""
    for path in output.parent.glob(f"{output.stem}-{'[0-9a-f]' * 8}.h5*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
