"""kapture's folder of a data set: images, their cameras and poses, and points."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from d2_hloc.files.atomic import write_whole
from d2_hloc.files.colmap import ModelError, pycolmap

HEADER = "# kapture format: 1.1"
RECORDS = Path("sensors", "records_data")


def write_kapture(model: pycolmap.Reconstruction, images: Path, folder: Path) -> None:
    """Write sensors/ with links to the images, and reconstruction/points3d.txt.

    Cameras are of COLMAP's models, poses world to camera; the k-th image is at time k.

    Raises:
        ModelError: for a name that kapture's files cannot hold.
    """
    registered = sorted((model.images[i] for i in model.reg_image_ids()), key=lambda i: i.name)
    sensors, records, trajectories = [], [], []
    for camera_id, camera in sorted(model.cameras.items()):
        numbers = [camera.width, camera.height, *(f"{value:.15g}" for value in camera.params)]
        sensors.append((f"camera{camera_id}", "", "camera", camera.model_name, *numbers))
    for k, image in enumerate(registered):
        if "," in image.name:
            raise ModelError(f"{image.name}: kapture takes no comma in a name; rename it.")
        x, y, z, w = image.cam_from_world().rotation.quat
        pose = [w, x, y, z, *image.cam_from_world().translation]
        device = f"camera{image.camera_id}"
        records.append((k, device, image.name))
        trajectories.append((k, device, *(f"{value:.15g}" for value in pose)))
        path = folder / RECORDS / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images / image.name, path)
    points = [model.points3D[i] for i in sorted(model.point3D_ids())]
    rows = [(*(f"{v:.15g}" for v in p.xyz), *np.asarray(p.color).tolist()) for p in points]
    parts = {
        "sensors/sensors.txt": ("sensor_device_id, name, sensor_type, [sensor_params]+", sensors),
        "sensors/records_camera.txt": ("timestamp, device_id, image_path", records),
        "sensors/trajectories.txt": (
            "timestamp, device_id, qw, qx, qy, qz, tx, ty, tz",
            trajectories,
        ),
        "reconstruction/points3d.txt": ("X, Y, Z, R, G, B", rows),
    }
    for name, (columns, lines) in parts.items():
        _write(folder / name, columns, lines)


def _write(path: Path, columns: str, rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [HEADER, f"# {columns}", *(", ".join(map(str, row)) for row in rows)]
    write_whole(path, ("\n".join(lines) + "\n").encode())
