"""Counts of dense stereo, and how well it agrees with the model's own points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from d2_hloc.mvs.cloud import read_point_cloud
from d2_hloc.mvs.map_files import read_stereo_map
from d2_hloc.mvs.workspace import DenseView, Workspace

NEIGHBOURS = 12  # points that a local surface is fitted to


@dataclass(frozen=True, kw_only=True)
class DenseStatistics:
    """Counts and errors; an error is None where there is nothing to compare.

    Depths are the geometrically checked ones. `depth_share` is the share of pixels that have one,
    `sparse_share` that of the model's observations. Their errors are relative to the depth of the
    model's point. `median_surface_distance`, in the model's units, is that of the model's points to
    a plane through the nearest points of the cloud.
    """

    depth_maps: int
    points: int
    depth_share: float
    sparse_share: float
    median_relative_error: float | None
    share_within_1_percent: float | None
    median_surface_distance: float | None


def dense_statistics(workspace: Workspace) -> DenseStatistics:
    """Statistics of a workspace that was fused."""
    shares, errors = [], [np.zeros(0)]
    observations = 0
    for view in workspace.views.values():
        depth = read_stereo_map(workspace.map_path(view.name, "depth", "geometric"))
        shares.append((depth > 0).mean())
        found, expected = depth_at_points(depth, view, workspace)
        observations += len(expected)
        errors.append(np.abs(found / expected - 1)[found > 0])
    relative = np.concatenate(errors)
    cloud = read_point_cloud(workspace.outputs.cloud)
    distances = surface_distances(np.array(list(workspace.points.values())), cloud)
    return DenseStatistics(
        depth_maps=len(workspace.views),
        points=len(cloud),
        depth_share=float(np.mean(shares)),
        sparse_share=len(relative) / max(1, observations),
        median_relative_error=float(np.median(relative)) if len(relative) else None,
        share_within_1_percent=float((relative <= 0.01).mean()) if len(relative) else None,
        median_surface_distance=float(np.median(distances)) if len(distances) else None,
    )


def depth_at_points(
    depth: Float[np.ndarray, "H W"], view: DenseView, workspace: Workspace
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Depths at the pixels nearest to the model's points that a view sees, and the points' own."""
    world = np.array([workspace.points[i] for i in view.point_ids.tolist()]).reshape(-1, 3)
    local = world @ view.cam_from_world[:, :3].T + view.cam_from_world[:, 3]
    local = local[local[:, 2] > 0]
    xy = local @ view.K.T
    x, y = np.rint(xy[:, :2] / xy[:, 2:]).astype(int).T
    height, width = depth.shape
    is_inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    return depth[y[is_inside], x[is_inside]], local[is_inside, 2]


def surface_distances(
    points: Float[np.ndarray, "N 3"], cloud: Float[np.ndarray, "M 3"]
) -> Float[np.ndarray, " _"]:
    """Distance of each point to a plane through the nearest of the cloud; none if it is empty."""
    if len(cloud) < NEIGHBOURS or not len(points):
        return np.zeros(0)
    _, nearest = KDTree(cloud).query(points, k=NEIGHBOURS)
    neighbours = cloud[nearest]
    middle = neighbours.mean(axis=1, keepdims=True)
    spread = np.einsum("nki,nkj->nij", neighbours - middle, neighbours - middle)
    normal = np.linalg.eigh(spread).eigenvectors[:, :, 0]
    return np.abs(((points - middle[:, 0]) * normal).sum(axis=1))
