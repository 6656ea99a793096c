"""Depth maps, and the pixels of two views that show the same point of the scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from d2_hloc.core.pixels import from_colmap, to_colmap
from d2_hloc.files.hdf5_guard import GuardedFile, Refused
from d2_hloc.training.scene_info import SceneError, SceneImage

Depth = Float[np.ndarray, "H W"]


def read_depth(path: Path) -> Depth:
    """The dataset `depth` of an HDF5 file; 0 where there is none.

    Raises:
        SceneError: if the file is missing or damaged, or holds no depth.
    """
    if not path.is_file():
        raise SceneError(f"{path}: there is no such depth map.")
    try:
        with GuardedFile(path) as file:
            depth = np.asarray(file["depth"], dtype=np.float32)
    except Refused as error:
        raise SceneError(str(error)) from error
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise SceneError(f"{path}: holds no depth that can be read; fetch it again.") from error
    if depth.ndim != 2:
        raise SceneError(f"{path}: its depth has {depth.ndim} dimensions instead of 2.")
    return np.where(np.isfinite(depth) & (depth > 0), depth, 0)


def corresponding_pixels(
    view0: SceneImage,
    view1: SceneImage,
    depth0: Depth,
    depth1: Depth,
    xy0: Float[np.ndarray, "N 2"],
    max_depth_error: float,
) -> tuple[Float[np.ndarray, "K 2"], Float[np.ndarray, "K 2"]]:
    """Pixels of `xy0` that view 1 shows too, and where it does.

    A pixel counts if view 1's own depth there differs from the point's by less than
    `max_depth_error` of it: else something stands before it. (0, 0) is the centre of an image's
    first pixel.
    """
    z0, is_known = interpolate(depth0, xy0)
    xy0, z0 = xy0[is_known], z0[is_known]
    xy1, z1 = project(view0, view1, xy0, z0)
    seen, is_known = interpolate(depth1, xy1)
    keep = is_known & (np.abs(z1 - seen) < max_depth_error * np.maximum(seen, 1e-9))
    return xy0[keep], xy1[keep]


def project(
    view0: SceneImage, view1: SceneImage, xy0: Float[np.ndarray, "N 2"], z0: Float[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " N"]]:
    """Move pixels of view 0 at these depths to view 1 (NaN behind it); also their depths there."""
    rays = np.c_[to_colmap(xy0), np.ones(len(xy0))] @ np.linalg.inv(view0.intrinsics).T
    cam1_from_cam0 = view1.cam_from_world @ np.linalg.inv(view0.cam_from_world)
    points = (rays * z0[:, None]) @ cam1_from_cam0[:3, :3].T + cam1_from_cam0[:3, 3]
    z1 = points[:, 2]
    projected = points @ view1.intrinsics.T
    xy1 = from_colmap(projected[:, :2] / np.where(z1 > 0, z1, np.nan)[:, None])
    return xy1, z1


def interpolate(
    depth: Depth, xy: Float[np.ndarray, "N 2"]
) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Bilinear depth, and where all four pixels around a position have one."""
    height, width = depth.shape
    inside = np.all((xy >= 0) & (xy <= np.array([width - 1, height - 1])), axis=1)
    places = np.where(inside[:, None], xy, 0)
    left, top = np.floor(places).astype(int).T
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    corners = np.stack(
        [depth[top, left], depth[top, right], depth[bottom, left], depth[bottom, right]]
    )
    u, v = (places - np.floor(places)).T
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])
    return (weights * corners).sum(axis=0), inside & np.all(corners > 0, axis=0)
