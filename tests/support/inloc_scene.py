"""A tiny data set in InLoc's layout, rendered: every pixel's point and every pose is exact."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image

from d2_hloc.app.scene import DAY, Camera, Scene, market_square, render
from d2_hloc.app.scene.demo import around

FLOOR = "DUC1"
SIZE = (400, 300)
# Degrees, metres, metres, and what of the view is aside of the middle.
CUTOUTS = ((-24.0, 4.8, 1.6, 0.2), (4.0, 4.6, 1.5, 0.0), (30.0, 4.8, 1.7, -0.2))
QUERIES = ((-14.0, 4.7, 1.5, 0.1), (12.0, 4.5, 1.6, 0.0))


@dataclass(frozen=True)
class InLocScene:
    folder: Path
    queries: list[str]
    cutouts: list[str]
    poses: dict[str, object]  # of the queries, by short name

    @property
    def truth(self) -> Path:
        return self.folder / "ground_truth.txt"


def query_camera(size=SIZE):
    """InLoc's focal length: 28 mm where the image is 36 mm wide."""
    centre = (size[0] - 1) / 2, (size[1] - 1) / 2
    return Camera(size=size, focal=max(size) * 28 / 36, principal_point=centre)


def rigid(seed):
    """A random rotation and translation, (4, 4)."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.sign(np.linalg.det(rotation))
    matrix[:3, 3] = rng.uniform(-5, 5, 3)
    return matrix


def write_alignment(path, matrix):
    """Write it as published: the matrix before the refinement, another after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ["# before", "", *(" ".join(map(str, row)) for row in np.eye(4)), "# after"]
    path.write_text("\n".join(rows + [" ".join(map(repr, row.tolist())) for row in matrix]) + "\n")


def write_mat5(path, **arrays):
    scipy.io.savemat(path, arrays, do_compression=True)


def write_mat73(path, **arrays):
    """Axes in reverse, behind MATLAB's own header of 512 bytes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array.T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file")


def write_scene(folder):
    """Three cutouts, each of a scan with a frame of its own, and two queries between them."""
    scene = Scene.lit(market_square(), DAY)
    cutouts, queries, poses, lines = [], [], {}, []
    for k, (*place, aside) in enumerate(CUTOUTS):
        name = f"database/cutouts/{FLOOR}/{k:03}/DUC_cutout_{k:03}_0_0.jpg"
        camera, pose = Camera.from_view_angle(SIZE, 60.0), around(*place, aside=aside)
        image, depth = render(scene, camera, pose)
        x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
        seen = camera.rays(np.stack([x, y], axis=-1).astype(float)) * depth[..., None]
        points = (seen - pose.translation) @ pose.rotation
        building_from_scan = rigid(k)
        points = (points - building_from_scan[:3, 3]) @ building_from_scan[:3, :3]
        points[depth == 0] = np.nan
        (folder / name).parent.mkdir(parents=True)
        Image.fromarray(image).save(folder / name, quality=95)
        write = write_mat73 if k == 1 else write_mat5
        write(folder / f"{name}.mat", XYZcut=points.astype(np.float32), RGBcut=image)
        path = f"database/alignments/{FLOOR}/transformations/DUC_trans_{k:03}.txt"
        write_alignment(folder / path, building_from_scan)
        cutouts.append(name)
    (folder / "query/iphone7").mkdir(parents=True)
    for k, (*place, aside) in enumerate(QUERIES):
        name, pose = f"IMG_{k:04}.JPG", around(*place, aside=aside)
        image, _ = render(scene, query_camera(), pose)
        Image.fromarray(image).save(folder / "query/iphone7" / name, quality=95)
        numbers = [*pose.quaternion.tolist(), *pose.translation.tolist()]
        lines.append(" ".join([name, *map(repr, numbers)]) + "\n")
        queries.append(f"query/iphone7/{name}")
        poses[name] = pose
    (folder / "ground_truth.txt").write_text("".join(lines))
    return InLocScene(folder=folder, queries=queries, cutouts=cutouts, poses=poses)
