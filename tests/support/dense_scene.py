"""Rendered images and their exact model in files, as dense stereo takes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from stereo_scene import CENTRES, Rendered, render

from d2_hloc.core.pixels import to_colmap
from d2_hloc.core.structs import Features
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.staged_h5 import Staged

POINTS_A_VIEW = 80


def write_scene(folder: Path) -> list[Rendered]:
    """FOLDER/images/view/K.png and FOLDER/sparse: exact cameras and points."""
    rendered = [render(centre) for centre in CENTRES]
    for k, r in enumerate(rendered):
        path = folder / "images" / name_of(k)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(r.rgb * 255).astype(np.uint8)).save(path)
    (folder / "sparse").mkdir()
    model_of(rendered).write(folder / "sparse")
    return rendered


def name_of(k: int) -> str:
    return f"view/{k}.png"


def model_of(rendered: list[Rendered]) -> pycolmap.Reconstruction:
    """Points on the surfaces, each seen by the views where nothing hides it."""
    world = np.concatenate([sampled(r, seed) for seed, r in enumerate(rendered)])
    model, tracks = pycolmap.Reconstruction(), [[] for _ in world]
    for k, r in enumerate(rendered, 1):
        height, width = r.view.size
        K = r.view.K.numpy()
        params = [K[0, 0], K[1, 1], *to_colmap(K[:2, 2])]
        camera = pycolmap.Camera(
            model="PINHOLE", width=width, height=height, params=params, camera_id=k
        )
        model.add_camera_with_trivial_rig(camera)
        index, xy = visible(r, world)
        image = pycolmap.Image(name=name_of(k - 1), camera_id=k, image_id=k)
        image.points2D = [pycolmap.Point2D(p) for p in to_colmap(xy)]
        pose = r.view.cam_from_world.numpy()
        rigid = pycolmap.Rigid3d(pycolmap.Rotation3d(pose[:, :3]), pose[:, 3])
        model.add_image_with_trivial_frame(image, rigid)
        for at, i in enumerate(index):
            tracks[i].append(pycolmap.TrackElement(k, at))
    for xyz, track in zip(world, tracks, strict=True):
        model.add_point3D(xyz, pycolmap.Track(track))
    return model


def sampled(r: Rendered, seed: int) -> np.ndarray:
    """Points of a view's surfaces at random pixels."""
    random = np.random.default_rng(seed)
    y, x = (random.integers(3, edge - 3, POINTS_A_VIEW) for edge in r.view.size)
    pose = r.view.cam_from_world.numpy()
    rays = np.stack([x, y, np.ones_like(x)], axis=1) @ np.linalg.inv(r.view.K.numpy()).T
    return (rays * r.depth[y, x][:, None] - pose[:, 3]) @ pose[:, :3]


def visible(r: Rendered, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the points that a view sees, and where (x, y)."""
    pose = r.view.cam_from_world.numpy()
    local = world @ pose[:, :3].T + pose[:, 3]
    xy = local @ r.view.K.numpy().T
    xy = xy[:, :2] / xy[:, 2:]
    x, y = np.rint(xy).astype(int).T
    height, width = r.view.size
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    index = np.flatnonzero(inside)
    index = index[np.abs(r.depth[y[index], x[index]] / local[index, 2] - 1) < 0.02]
    return index, xy[index]


def write_grids(features: Path, names: Sequence[str], size: tuple[int, int]) -> None:
    """A file of features: in each image, of this size (w, h), a keypoint every 8 pixels."""
    columns, rows = np.meshgrid(np.arange(8, size[0] - 7, 8), np.arange(8, size[1] - 7, 8))
    grid = torch.from_numpy(np.stack([columns, rows], axis=-1).reshape(-1, 2)).float()
    count = len(grid)
    found = Features(
        keypoints=grid,
        scores=torch.ones(count),
        descriptors=torch.ones(count, 1),
        scales=torch.ones(count),
    )
    with Staged(features, {"resize_max": None}, "keypoints") as staged:
        for name in names:
            staged.add(name, features_h5.features_record(found, size, 1.0, "float32"))
