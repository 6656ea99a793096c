"""Estimate a pose again from all points that an image of known depth shows, matched or not.

The first pose says where each point should be seen; shallow maps say where it is. So a view that
has few matches is held by hundreds of points.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from d2_hloc.core.pixels import from_colmap, to_colmap
from d2_hloc.files.colmap import img_from_cam, pycolmap
from d2_hloc.sfm.pose_refit import FEWEST, refit_pose

ROUNDS = 2

Places = Float[np.ndarray, "K 2"]
Index = Int[np.ndarray, " K"]
Found = Bool[np.ndarray, " K"]
# The index of points and where they should be in the query -> where they are, and which were found.
Search = Callable[[Index, Places], tuple[Places, Found]]


def pose_of_visible_points(
    pose: pycolmap.Rigid3d,
    camera: pycolmap.Camera,
    xyz: Float[np.ndarray, "N 3"],
    search: Search,
) -> pycolmap.Rigid3d:
    """Estimate a query's pose from the points `xyz` that `search` finds in it, if it finds some.

    Places are pixels of the query, with (0, 0) at the centre of the first.
    """
    for _ in range(ROUNDS):
        index, projected = visible_points(pose, camera, xyz)
        xy, is_found = search(index, projected)
        if is_found.sum() < FEWEST:
            break
        found = xyz[index[is_found]]
        everyone = np.ones(len(found), dtype=bool)
        pose = refit_pose(pose, to_colmap(xy[is_found]), found, everyone, camera)
    return pose


def visible_points(
    pose: pycolmap.Rigid3d, camera: pycolmap.Camera, xyz: Float[np.ndarray, "N 3"]
) -> tuple[Int[np.ndarray, " K"], Places]:
    """Index of the points that project into the image, and their places."""
    projected = project_points(pose, camera, xyz)
    edges = np.array([camera.width, camera.height]) - 1
    index = np.flatnonzero(((projected >= 0) & (projected <= edges)).all(axis=1))
    return index, projected[index]


def project_points(
    pose: pycolmap.Rigid3d, camera: pycolmap.Camera, xyz: Float[np.ndarray, "N 3"]
) -> Float[np.ndarray, "N 2"]:
    """Project points; infinite for those that are behind the camera or NaN."""
    local = xyz @ pose.rotation.matrix().T + pose.translation
    is_before = (local[:, 2] > 0) & np.isfinite(local).all(axis=1)
    projected = np.full((len(xyz), 2), np.inf)
    projected[is_before] = from_colmap(img_from_cam(camera, local[is_before]))
    return projected
