"""Random squares of photographs, to train with: walls and boxes in the open, with exact depth.

Views of one photograph differ by a homography. Those of a square also hide things from each other,
and near things move against far ones. Metres, as in `square`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from tqdm import tqdm

from d2_hloc.app.scene.camera import Camera
from d2_hloc.app.scene.pose import Pose
from d2_hloc.app.scene.renderer import Scene, pyramid, render
from d2_hloc.app.scene.square import DAY
from d2_hloc.app.scene.surface import Surface, Texture, box, column, wall
from d2_hloc.core.images import open_image
from d2_hloc.core.pixels import to_colmap
from d2_hloc.files.provenance import note_configuration
from d2_hloc.mvs.map_files import write_depth_h5
from d2_hloc.training.make_scene import write_scene

PHOTOGRAPHS = 12  # of a square
VIEWS = 7
BRIGHTNESS = 1.6  # of photographs' light, for DAY's exposure
GRID = 24  # pixels between the points by which overlap is told
SAME = 0.03  # of the depth: the same surface


def write_squares(
    photographs: Sequence[Path], count: int, output: Path, seed: int = 0
) -> list[Path]:
    """Render squares as scenes of MegaDepth's form; those that are there are left alone.

    Writes OUTPUT/scene_info/NAME.npz, OUTPUT/images/NAME/ and OUTPUT/depths/NAME/.

    Raises:
        ConfigurationChanged: if the folder was made of other photographs, or with another seed.
        ImageError: if a photograph cannot be used.
        DiskFull: if there is no space.
    """
    if len(photographs) < PHOTOGRAPHS:
        raise ValueError(
            f"a square takes {PHOTOGRAPHS} photographs, and there are {len(photographs)}."
        )
    note_configuration(output, {"photographs": [p.name for p in photographs], "seed": seed})
    made = []
    for k in tqdm(range(count), desc="squares", unit="square"):
        path = output / "scene_info" / f"square_{k:04}.npz"
        if not path.is_file():
            rng = np.random.default_rng([seed, k])
            chosen = rng.choice(len(photographs), PHOTOGRAPHS, replace=False)
            textures = [np.asarray(open_image(photographs[i])) / 255 for i in chosen]
            write_square(exhibition(textures, rng), path, output, rng)
        made.append(path)
    return made


def exhibition(textures: Sequence[Texture], rng: np.random.Generator) -> Scene:
    """A square with these photographs, in even light, without shadows."""
    surfaces = [
        *photo_walls(textures[:5], rng),
        photo_ground(textures[5]),
        *obstacles(textures[6:], rng),
    ]
    radiance = tuple(pyramid(_light(s.texture)) for s in surfaces)
    return Scene(surfaces=tuple(surfaces), radiance=radiance, lighting=DAY)


def _light(texture: Texture) -> torch.Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(texture, dtype=np.float32)).permute(2, 0, 1)
    return BRIGHTNESS * pixels * pixels  # a gamma of 2, as in renderer.develop


def photo_walls(textures: Sequence[Texture], rng: np.random.Generator) -> list[Surface]:
    """One to three photographs at the back, none quite in the plane of another, and one a side."""
    height = rng.uniform(3.2, 4.5)
    widths = [height * t.shape[1] / t.shape[0] for t in textures]
    back = int(rng.integers(1, 4))
    left, right, y = -sum(widths[:back]) / 2, sum(widths[:back]) / 2, 3.0
    found, x = [], left
    for texture, width in zip(textures[:back], widths, strict=False):
        shift, turn = rng.uniform(-0.5, 0.5), rng.uniform(-0.12, 0.12) * width
        start, end = (x, y + shift - turn), (x + width, y + shift + turn)
        found.append(wall(start, end, height * rng.uniform(0.9, 1.1), texture))
        x += width
    for side, texture, width in ((-1, textures[3], widths[3]), (1, textures[4], widths[4])):
        angle = rng.uniform(0.6, 1.3)
        corner = right if side > 0 else left
        end = (corner + side * width * math.cos(angle), y - width * math.sin(angle))
        ends = ((corner, y), end) if side > 0 else (end, (corner, y))
        found.append(wall(*ends, height, texture))
    return found


def photo_ground(texture: Texture) -> Surface:
    """A photograph to walk on."""
    size = 14.0
    return Surface(
        corner=np.array([-size / 2, 4.5, 0]),
        right=np.array([size, 0, 0]),
        down=np.array([0, -size, 0]),
        texture=texture,
    )


def obstacles(textures: Sequence[Texture], rng: np.random.Generator) -> list[Surface]:
    """One to three boxes or columns before the walls, two photographs each."""
    found: list[Surface] = []
    for k in range(int(rng.integers(1, 4))):
        first, second = textures[2 * k], textures[2 * k + 1]
        height = rng.uniform(0.7, 2.0)
        place = (rng.uniform(-2.8, 2.8), rng.uniform(-0.4, 2.2))
        if rng.random() < 0.75:
            width = min(2.2, height * first.shape[1] / first.shape[0])
            size = (width, rng.uniform(0.4, 1.2), height)
            found += box(place, size, rng.uniform(-40, 40), [first, second] * 2, second)
        else:
            wrap = np.concatenate([first, first[:, ::-1]], axis=1)
            found += column(place, rng.uniform(0.3, 0.6), height, 12, wrap)
    return found


def random_views(rng: np.random.Generator, count: int = VIEWS) -> list[tuple[Camera, Pose]]:
    """Cameras of several kinds around the middle, some near and some far."""
    middle = rng.uniform(-25, 25)
    found = []
    for _ in range(count):
        edge, form = int(rng.choice([512, 576, 640, 704])), rng.random()
        short = int(edge * 0.75) if form < 0.85 else edge
        size = (edge, short) if form < 0.65 else (short, edge)
        turn = math.radians(np.clip(middle + rng.normal(0, 24), -55, 55))
        distance = rng.uniform(3.0, 6.5)
        target = np.array([rng.uniform(-1.6, 1.6), 1.4, rng.uniform(0.9, 2.2)])
        centre = target + distance * np.array([math.sin(turn), -math.cos(turn), 0])
        centre[2] = rng.uniform(0.8, 2.4)
        pose = Pose.looking_at(centre, target, math.radians(rng.normal(0, 5)))
        found.append((Camera.from_view_angle(size, rng.uniform(45, 68)), pose))
    return found


def write_square(scene: Scene, path: Path, output: Path, rng: np.random.Generator) -> None:
    """Images, depths, and then the scene's file."""
    views, rows, maps = random_views(rng), [], []
    for k, (camera, pose) in enumerate(views):
        image, depth = render(scene, camera, pose)
        row = {
            "image_paths": f"images/{path.stem}/{k}.png",
            "depth_paths": f"depths/{path.stem}/{k}.h5",
            "intrinsics": colmap_matrix(camera),
            "poses": np.vstack([np.c_[pose.rotation, pose.translation], [0, 0, 0, 1]]),
        }
        (output / row["image_paths"]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(output / row["image_paths"])
        write_depth_h5(output / row["depth_paths"], depth)
        rows.append(row)
        maps.append(depth)
    write_scene(with_points(rows, views, maps), path)


def colmap_matrix(camera: Camera) -> Float[np.ndarray, "3 3"]:
    """Calibration matrix in COLMAP's pixels."""
    x, y = to_colmap(np.array(camera.principal_point))
    return np.array([[camera.focal, 0, x], [0, camera.focal, y], [0, 0, 1]])


def with_points(
    rows: list[dict[str, Any]],
    views: Sequence[tuple[Camera, Pose]],
    maps: Sequence[Float[np.ndarray, "H W"]],
) -> list[dict[str, Any]]:
    """Points of every view's grid, with those views that see them: by these, views overlap."""
    points = np.concatenate([_grid(*view, depth) for view, depth in zip(views, maps, strict=True)])
    for row, (camera, pose), depth in zip(rows, views, maps, strict=True):
        local = pose.apply(points)
        front = local[:, 2] > 0
        xy = camera.project(np.where(front[:, None], local, 1))
        at = np.rint(xy).astype(int)
        inside = front & ((at >= 0) & (at < camera.size)).all(axis=1)
        seen = np.flatnonzero(inside)
        there = depth[at[seen, 1], at[seen, 0]]
        seen = seen[np.abs(local[seen, 2] - there) < SAME * there]
        row["n_points3D"] = len(seen)
        row["points3D_id_to_2D"] = {int(i): tuple(map(float, xy[i])) for i in seen}
        row["points3D_id_to_ndepth"] = {int(i): float(local[i, 2] / camera.focal) for i in seen}
    return rows


def _grid(camera: Camera, pose: Pose, depth: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "N 3"]:
    """Points of the world that a view shows, at a grid of its pixels."""
    width, height = camera.size
    x, y = np.meshgrid(np.arange(GRID // 2, width, GRID), np.arange(GRID // 2, height, GRID))
    xy = np.stack([x.ravel(), y.ravel()], axis=1)
    z = depth[xy[:, 1], xy[:, 0]]
    local = camera.rays(xy.astype(float))[z > 0] * z[z > 0, None]
    return (local - pose.translation) @ pose.rotation
