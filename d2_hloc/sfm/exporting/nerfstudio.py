"""transforms.json of nerfstudio, of undistorted images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from d2_hloc.core.photographs.masks import save_mask
from d2_hloc.files.atomic import write_whole
from d2_hloc.files.colmap import camera_of, pycolmap

POINTS = "sparse_pc.ply"
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # from a camera that looks along z to OpenGL's, along -z


def write_transforms(model: pycolmap.Reconstruction, folder: Path, masks: str | None) -> None:
    """Write FOLDER/transforms.json and the points, in the model's own frame.

    Cameras look along -z, as OpenGL's; principal points are COLMAP's. `masks` is the folder in
    FOLDER of masks, if there are any; images without one get a white one, as all or none have it.
    """
    images = sorted((model.images[i] for i in model.reg_image_ids()), key=lambda i: i.name)
    values: dict[str, Any] = {
        "camera_model": "OPENCV",
        "frames": [_frame(image, folder, masks) for image in images],
        "applied_transform": np.eye(4)[:3].tolist(),
        "ply_file_path": POINTS,
    }
    model.export_PLY(folder / POINTS)
    write_whole(folder / "transforms.json", json.dumps(values, indent=1).encode())


def _frame(image: pycolmap.Image, folder: Path, masks: str | None) -> dict[str, Any]:
    camera, pose = camera_of(image), np.eye(4)
    pose[:3] = image.cam_from_world().inverse().matrix()
    mask = f"{masks}/{image.name}.png"
    if masks is not None and not (folder / mask).is_file():
        save_mask(folder / mask, np.ones((camera.height, camera.width), bool))
    return {
        "file_path": f"images/{image.name}",
        **({} if masks is None else {"mask_path": mask}),
        "transform_matrix": (pose @ FLIP).tolist(),
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.focal_length_x,
        "fl_y": camera.focal_length_y,
        "cx": camera.principal_point_x,
        "cy": camera.principal_point_y,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
    }
