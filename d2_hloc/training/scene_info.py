"""A scene of MegaDepth as training code keeps it: an npz of paths, cameras and pairs, in two forms.

D2-Net's has `overlap_matrix` and `scale_ratio_matrix`, LoFTR's a list `pair_infos`. Both pickle
what is not plain numbers; of a pickle only arrays and containers are let in.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from d2_hloc.core.names import UnsafeName, image_name
from d2_hloc.files import safe_pickle
from d2_hloc.files.safe_pickle import PickleRefused
from d2_hloc.mvs.sources import shared_points

NO_OVERLAP = -1.0
KEYS = ("image_paths", "depth_paths", "intrinsics", "poses")


class SceneError(ValueError):
    """A scene that cannot be used; the text names the file and the remedy."""


@dataclass(frozen=True, kw_only=True)
class SceneImage:
    """An image with its depth map and camera."""

    image: str  # paths relative to the data set
    depth: str
    intrinsics: Float[np.ndarray, "3 3"]  # COLMAP's: (0.5, 0.5) is the centre of the first pixel
    cam_from_world: Float[np.ndarray, "4 4"]


@dataclass(frozen=True, kw_only=True)
class SceneInfo:
    """The views that have a depth map, by their row, and the pairs of them that overlap."""

    views: dict[int, SceneImage]
    pairs: Int[np.ndarray, "P 2"]


def pair_matrices(
    ids: Sequence[Int[np.ndarray, " _"]], ndepths: Sequence[Float[np.ndarray, " _"]]
) -> tuple[Float[np.ndarray, "V V"], Float[np.ndarray, "V V"]]:
    """Make overlap_matrix and scale_ratio_matrix of D2-Net's form from each view's points.

    The share of the row's points that the column sees, and the least ratio of the depths, each by
    its focal length, of shared points, 1 or more; NO_OVERLAP where nothing is shared.
    """
    known = np.unique(np.concatenate(ids))
    shared = shared_points([np.searchsorted(known, i) for i in ids], len(known))
    np.fill_diagonal(shared, 0)
    counts = np.array([max(1, len(i)) for i in ids])
    overlap = np.where(shared > 0, shared / counts[:, None], NO_OVERLAP)
    ratio = np.full(shared.shape, NO_OVERLAP)
    for i, j in zip(*np.nonzero(np.triu(shared)), strict=True):
        _, at_i, at_j = np.intersect1d(ids[i], ids[j], return_indices=True)
        quotient = ndepths[i][at_i] / ndepths[j][at_j]
        ratio[i, j] = ratio[j, i] = np.maximum(quotient, 1 / quotient).min()
    return overlap, ratio


def objects(values: Sequence[Any]) -> np.ndarray:
    """Array of one object a row, whatever its shape."""
    array = np.empty(len(values), dtype=object)
    for k, value in enumerate(values):
        array[k] = value
    return array


def read_scene(path: Path, overlap: tuple[float, float], max_scale_ratio: float) -> SceneInfo:
    """Read either form; pairs have an overlap within these limits.

    LoFTR's form has no scale ratios: `max_scale_ratio` applies to D2-Net's alone.

    Raises:
        SceneError: if the file is missing, damaged, of another form or holds foreign objects.
        UnsafeName: if a path in it leads out of the data set's folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            values = {key: _read_array(archive, key) for key in KEYS}
            views = _views(values, path)
            if "pair_infos" in names:
                pairs = _listed_pairs(_read_array(archive, "pair_infos"), overlap)
            else:
                overlaps = _read_array(archive, "overlap_matrix").astype(float)
                ratios = _read_array(archive, "scale_ratio_matrix").astype(float)
                pairs = _matrix_pairs(overlaps, ratios, overlap, max_scale_ratio)
    except FileNotFoundError as error:
        raise SceneError(f"{path}: there is no such scene.") from error
    except PickleRefused as error:
        raise SceneError(
            f"{path}: refused, since {error}; make it again from its source."
        ) from error
    except UnsafeName:
        raise
    except Exception as error:  # a damaged archive can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SceneError(
            f"{path}: is not a scene in D2-Net's or LoFTR's form ({reason}); fetch it again."
        ) from error
    usable = [bool(i in views and j in views and i != j) for i, j in pairs.tolist()]
    return SceneInfo(views=views, pairs=pairs[np.array(usable, dtype=bool)])


def _views(values: dict[str, np.ndarray], path: Path) -> dict[int, SceneImage]:
    rows = zip(*(values[key] for key in KEYS), strict=True)
    return {
        k: SceneImage(
            image=image_name(image, path),
            depth=image_name(depth, path),
            intrinsics=_finite(intrinsics, (3, 3)),
            cam_from_world=_finite(pose, (4, 4)),
        )
        for k, (image, depth, intrinsics, pose) in enumerate(rows)
        if image is not None and depth is not None
    }


def _finite(values: Any, shape: tuple[int, int]) -> np.ndarray:
    found = np.asarray(values, dtype=float).reshape(shape)
    if not np.isfinite(found).all():
        raise ValueError("a camera of it holds what is no number")
    return found


def _listed_pairs(listed: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """LoFTR's form: ((row, row), overlap, ...) a pair."""
    pairs = [tuple(entry[0]) for entry in listed if limits[0] <= float(entry[1]) <= limits[1]]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _matrix_pairs(
    overlaps: np.ndarray, ratios: np.ndarray, limits: tuple[float, float], max_scale_ratio: float
) -> np.ndarray:
    """D2-Net's form: the entries of both matrices that are within the limits; -1 is none."""
    keep = (overlaps >= limits[0]) & (overlaps <= limits[1]) & (overlaps > 0)
    return np.argwhere(keep & (ratios <= max_scale_ratio))


def _read_array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """Array of one member; np.load would run whatever its pickle says."""
    try:
        member = archive.open(f"{key}.npy")
    except KeyError as error:
        raise ValueError(f"it has no {key}") from error
    with member as file:
        return safe_pickle.read_npy(file)


def find_scenes(folder: Path, scenes: Sequence[str] | None) -> list[Path]:
    """The files of the scenes named, or all there are: 0000.npz, 0000.0.npz, 0000_0.1_0.3.npz.

    Raises:
        SceneError: if there is none.
    """
    found = sorted(folder.glob("*.npz"))
    if scenes is not None:
        wanted = set(scenes)
        found = [
            p for p in found if p.name.split(".")[0].split("_")[0] in wanted or p.stem in wanted
        ]
    if not found:
        some = "" if scenes is None else f" of the {len(scenes)} scenes listed"
        raise SceneError(f"{folder}: holds no scene{some}; it should hold files such as 0000.npz.")
    return found


def read_scene_list(path: Path) -> list[str]:
    """Names of scenes, one a line.

    Raises:
        SceneError: if the file cannot be read or is empty.
    """
    try:
        names = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: cannot be read ({error}).") from error
    if not names:
        raise SceneError(f"{path}: names no scene.")
    return names
