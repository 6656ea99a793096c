"""transforms.json of nerfstudio, of undistorted images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from d2_hloc.files.atomic import write_whole
from d2_hloc.files.colmap import camera_of, pycolmap

POINTS = "sparse_pc.ply"
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # from a camera that looks along z to OpenGL's, along -z


def write_transforms(model: pycolmap.Reconstruction, folder: Path) -> None:
    """Write FOLDER/transforms.json and the points, in the model's own frame.

    Cameras look along -z, as OpenGL's; principal points are COLMAP's.
    """
    images = sorted((model.images[i] for i in model.reg_image_ids()), key=lambda i: i.name)
    values: dict[str, Any] = {
        "camera_model": "OPENCV",
        "frames": [_frame(image) for image in images],
        "applied_transform": np.eye(4)[:3].tolist(),
        "ply_file_path": POINTS,
    }
    model.export_PLY(folder / POINTS)
    write_whole(folder / "transforms.json", json.dumps(values, indent=1).encode())


def _frame(image: pycolmap.Image) -> dict[str, Any]:
    camera, pose = camera_of(image), np.eye(4)
    pose[:3] = image.cam_from_world().inverse().matrix()
    return {
        "file_path": f"images/{image.name}",
        "transform_matrix": (pose @ FLIP).tolist(),
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.focal_length_x,
        "fl_y": camera.focal_length_y,
        "cx": camera.principal_point_x,
        "cy": camera.principal_point_y,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
    }
