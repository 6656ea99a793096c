"""3D points of InLoc's cutouts: `.mat` files of MATLAB 5 and 7.3, a bounded cache, the lookup.

Pixel convention: XYZcut[y, x] is the point that the centre of pixel (x, y) sees, (0, 0) being the
first pixel. Keypoints have the same origin, so they look points up as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, UInt8

from d2_hloc.benchmarks.inloc.data import InLocError
from d2_hloc.benchmarks.inloc.mat_files import load_mat
from d2_hloc.core.cache import BoundedCache
from d2_hloc.files.hdf5_guard import GuardedFile, Refused

POINTS, COLOURS = "XYZcut", "RGBcut"
CACHE_BYTES = 1 << 30
MAX_GAP = (
    0.1  # metres; neighbours further apart are of two surfaces, and a mean would float between
)


@dataclass(frozen=True, kw_only=True)
class CutoutMap:
    """Points of a cutout's pixels in the scan's frame, NaN where there is no depth."""

    xyz: Float[np.ndarray, "H W 3"]  # metres
    rgb: UInt8[np.ndarray, "H W 3"] | None

    @property
    def nbytes(self) -> int:
        return self.xyz.nbytes + (0 if self.rgb is None else self.rgb.nbytes)


def read_cutout_map(path: Path) -> CutoutMap:
    """Read `<cutout>.mat`, of MATLAB 5 or 7.3.

    Raises:
        InLocError: if it is missing or damaged, or holds no point.
    """
    if not path.is_file():
        raise InLocError(f"{path}: there is no such file, so the cutout has no depth.")
    try:
        values = _read_hdf5(path) if h5py.is_hdf5(path) else _read_mat5(path)
    except Refused as error:
        raise InLocError(str(error)) from error
    except Exception as error:  # scipy's parser raises whatever it meets in a damaged file
        raise InLocError(f"{path}: is damaged or no .mat file.") from error
    xyz, rgb = values.get(POINTS), values.get(COLOURS)
    if xyz is None:
        raise InLocError(f"{path}: holds no {POINTS}, so the cutout has no depth.")
    if xyz.ndim != 3 or xyz.shape[2] != 3 or xyz.dtype.kind not in "fiu":
        raise InLocError(f"{path}: {POINTS} is of shape {xyz.shape}, not H x W x 3.")
    xyz = xyz.astype(np.float32)
    if not np.isfinite(xyz).all(axis=2).any():
        raise InLocError(f"{path}: no pixel of {POINTS} has a point, so the cutout has no depth.")
    return CutoutMap(xyz=xyz, rgb=rgb if rgb is not None and rgb.shape == xyz.shape else None)


def _read_mat5(path: Path) -> dict[str, Any]:
    return load_mat(path, variable_names=[POINTS, COLOURS])


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Read MATLAB 7.3, which stores arrays by columns: HDF5 sees their axes in reverse."""
    with GuardedFile(path) as file:
        return {name: np.asarray(file[name]).T for name in (POINTS, COLOURS) if name in file}


class MapCache(BoundedCache[Path, CutoutMap]):
    """Maps by path, read once while they are in use; for several threads."""

    def __init__(self, capacity: int = CACHE_BYTES) -> None:
        super().__init__(read_cutout_map, capacity)


def points_at(
    xyz: Float[np.ndarray, "H W 3"], xy: Float[np.ndarray, "N 2"]
) -> Float[np.ndarray, "N 3"]:
    """Look up the points that places between pixels see; (0, 0) is the centre of the first pixel.

    They are bilinear between those of the four neighbours that have a point on the nearest pixel's
    surface; NaN where the nearest pixel itself has none or lies outside.
    """
    height, width = xyz.shape[:2]
    low = np.floor(xy).astype(int)
    share = xy - low
    corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
    cells = low[:, None] + corners  # (N, 4, 2)
    weights = np.where(corners == 1, share[:, None], 1 - share[:, None]).prod(axis=2)
    inside = np.all((cells >= 0) & (cells < [width, height]), axis=2)
    x, y = np.clip(cells, 0, [width - 1, height - 1]).transpose(2, 0, 1)
    points = np.where(inside[..., None], xyz[y, x], np.nan).astype(np.float64)
    nearest = points[np.arange(len(xy)), weights.argmax(axis=1)]
    with np.errstate(invalid="ignore"):
        is_near = np.linalg.norm(points - nearest[:, None], axis=2) <= MAX_GAP  # not for NaN
    weights = weights * is_near
    total = weights.sum(axis=1, keepdims=True)
    summed = (np.where(is_near[..., None], points, 0) * weights[..., None]).sum(axis=1)
    return np.where(total > 0, summed / np.where(total > 0, total, 1), np.nan)
