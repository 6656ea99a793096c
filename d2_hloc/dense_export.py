"""A workspace's depth maps in MegaDepth's form, to train and to evaluate with."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from d2_hloc.datasets.scene_info import objects, pair_matrices
from d2_hloc.dense_workspace import DenseView, Workspace, read_workspace
from d2_hloc.pixels import to_colmap
from d2_hloc.staging import write_whole
from d2_hloc.stereo import read_map, write_depth_h5


def save_megadepth(folder: Path) -> Path:
    """Write `depths/<image name>.h5` and `scene_info.npz` into a workspace that was checked.

    The npz has the form of D2-Net's training data; its paths are relative to the workspace. Poses
    are world to camera, 4 x 4; intrinsics and points2D have pixel centres at half-integers, as
    MegaDepth's. overlap_matrix is the share of the row's points that the column sees,
    scale_ratio_matrix the least ratio of the depths, each by its focal length, of shared points; -1
    where nothing is shared.

    Returns:
        The path of the npz.

    Raises:
        ModelError: if the folder is no workspace.
        DepthMapError: if a depth map is missing.
    """
    workspace = read_workspace(folder, num_sources=0)
    for name in tqdm(workspace.views, desc="export", unit="map"):
        depth = read_map(workspace.map_path(name, "depth", "geometric"))
        write_depth_h5(folder / depth_path(name), depth)
    buffer = io.BytesIO()
    np.savez(buffer, **scene_info(workspace))
    write_whole(folder / "scene_info.npz", buffer.getvalue())
    return folder / "scene_info.npz"


def depth_path(name: str) -> str:
    """Where an image's depth is, relative to the workspace."""
    return f"depths/{name}.h5"


def scene_info(workspace: Workspace) -> dict[str, np.ndarray]:
    """The arrays of scene_info.npz, by name."""
    views = list(workspace.views.values())
    places = [_places(view, workspace) for view in views]
    ndepths = [dict(zip(ids.tolist(), nd.tolist(), strict=True)) for ids, _, nd in places]
    overlap, ratio = pair_matrices([ids for ids, _, _ in places], [nd for _, _, nd in places])
    return {
        "image_paths": np.array([f"images/{view.name}" for view in views]),
        "depth_paths": np.array([depth_path(view.name) for view in views]),
        "intrinsics": np.array([_colmap_intrinsics(view) for view in views]),
        "poses": np.array([np.vstack([view.cam_from_world, [0, 0, 0, 1]]) for view in views]),
        "overlap_matrix": overlap,
        "scale_ratio_matrix": ratio,
        "n_points3D": np.array([len(ids) for ids, _, _ in places]),
        "points3D_id_to_2D": objects(
            [dict(zip(ids.tolist(), xy, strict=True)) for ids, xy, _ in places]
        ),
        "points3D_id_to_ndepth": objects(ndepths),
    }


def _places(
    view: DenseView, workspace: Workspace
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N 2"], Float[np.ndarray, " N"]]:
    """Ids of the points before a view, where it sees them (x, y), and their depth by its focal."""
    world = np.array([workspace.points[i] for i in view.point_ids.tolist()]).reshape(-1, 3)
    local = world @ view.cam_from_world[:, :3].T + view.cam_from_world[:, 3]
    is_before = local[:, 2] > 0
    local = local[is_before]
    pixels = local @ view.K.T
    focal = (view.K[0, 0] + view.K[1, 1]) / 2
    return view.point_ids[is_before], to_colmap(pixels[:, :2] / pixels[:, 2:]), local[:, 2] / focal


def _colmap_intrinsics(view: DenseView) -> Float[np.ndarray, "3 3"]:
    K = view.K.copy()
    K[:2, 2] = to_colmap(K[:2, 2])
    return K
