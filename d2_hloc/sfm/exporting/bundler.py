"""Bundler's file of cameras and points, of undistorted images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from d2_hloc.files.atomic import write_whole
from d2_hloc.files.colmap import camera_of, pycolmap

FLIP = np.diag([1.0, -1.0, -1.0])  # Bundler's cameras look along -z, and y goes up


def write_bundler(model: pycolmap.Reconstruction, folder: Path) -> None:
    """Write FOLDER/bundle.out and FOLDER/list.txt, the images in its order.

    Places are from the principal point, y upwards, as COLMAP writes them.
    """
    images = sorted((model.images[i] for i in model.reg_image_ids()), key=lambda i: i.name)
    index = {image.image_id: k for k, image in enumerate(images)}
    points = [model.points3D[i] for i in sorted(model.point3D_ids())]
    lines = ["# Bundle file v0.3", f"{len(images)} {len(points)}"]
    for image in images:
        pose = FLIP @ image.cam_from_world().matrix()
        lines += [f"{camera_of(image).mean_focal_length():.12g} 0 0"]
        lines += [_numbers(row) for row in (*pose[:, :3], pose[:, 3])]
    for point in points:
        views = [_view(model, element, index) for element in point.track.elements]
        color = " ".join(map(str, np.asarray(point.color).tolist()))
        lines += [_numbers(point.xyz), color, f"{len(views)} {' '.join(views)}"]
    write_whole(folder / "bundle.out", ("\n".join(lines) + "\n").encode())
    names = "".join(f"images/{image.name}\n" for image in images)
    write_whole(folder / "list.txt", names.encode())


def _view(
    model: pycolmap.Reconstruction, element: pycolmap.TrackElement, index: dict[int, int]
) -> str:
    image = model.images[element.image_id]
    camera, xy = camera_of(image), image.points2D[element.point2D_idx].xy
    x, y = xy[0] - camera.principal_point_x, camera.principal_point_y - xy[1]
    return f"{index[element.image_id]} {element.point2D_idx} {x:.6g} {y:.6g}"


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.12g}" for value in values)
