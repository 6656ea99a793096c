"""A COLMAP model and depth maps -> a training scene in D2-Net's form (see scene_info.py)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from d2_hloc.colmap import pycolmap, read_model
from d2_hloc.datasets.scene_info import SceneError, objects, pair_matrices
from d2_hloc.staging import write_atomically

UNDISTORTED = ("PINHOLE", "SIMPLE_PINHOLE")


def make_training_scene(model: Path, depth_folder: Path, images: Path, output: Path) -> Path:
    """Write the scene `output`, an npz, and return it.

    `model` is a COLMAP model of undistorted images, which lie in `images`; an image's depth map is
    `<image name>.h5` in `depth_folder`, with the dataset `depth` of the image's size and in the
    model's unit. Images without a depth map stay in the scene and are never paired.

    Raises:
        SceneError: if cameras are distorted, or fewer than two images have depth maps.
        ModelError: if the model cannot be read.
    """
    reconstruction = read_model(model)
    registered = sorted(
        (reconstruction.images[i] for i in reconstruction.reg_image_ids()), key=lambda i: i.name
    )
    for image in registered:
        if image.camera.model.name not in UNDISTORTED:
            raise SceneError(
                f"{model}: {image.name} has a camera of model {image.camera.model.name}; "
                "undistort the images (colmap image_undistorter) and give that model."
            )
    rows = [_row(image, reconstruction, depth_folder, images) for image in registered]
    has_depth = np.array([row["depth_paths"] is not None for row in rows], dtype=bool)
    if has_depth.sum() < 2:
        raise SceneError(
            f"{depth_folder}: holds depth maps of {has_depth.sum()} of the {len(rows)} images, and "
            "two are needed; their names are the images', followed by .h5."
        )
    columns = {key: objects([row[key] for row in rows]) for key in rows[0]}
    depths = [
        row["points3D_id_to_ndepth"] if usable else {}
        for row, usable in zip(rows, has_depth, strict=True)
    ]
    overlap, ratio = pair_matrices(
        [np.array(list(d), dtype=np.int64) for d in depths],
        [np.array(list(d.values())) for d in depths],
    )
    columns |= {"overlap_matrix": overlap, "scale_ratio_matrix": ratio}
    columns["n_points3D"] = columns["n_points3D"].astype(int)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, buffer.getvalue())
    return output


def _row(
    image: pycolmap.Image,
    model: pycolmap.Reconstruction,
    depth_folder: Path,
    images: Path,
) -> dict[str, Any]:
    """What a scene holds of one image. Paths are absolute: the parts need no common folder."""
    depth, photo = depth_folder / f"{image.name}.h5", images / image.name
    is_usable = depth.is_file() and photo.is_file()
    intrinsics = image.camera.calibration_matrix()
    cam_from_world = np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])
    points = {p.point3D_id: p.xy for p in image.points2D if p.has_point3D()}
    focal = (intrinsics[0, 0] + intrinsics[1, 1]) / 2
    depths = {
        i: float((cam_from_world[:3] @ [*model.points3D[i].xyz, 1.0])[2] / focal) for i in points
    }
    return {
        "image_paths": str(photo.resolve()) if is_usable else None,
        "depth_paths": str(depth.resolve()) if is_usable else None,
        "intrinsics": intrinsics,
        "poses": cam_from_world,
        "n_points3D": len(points),
        "points3D_id_to_2D": {i: tuple(map(float, xy)) for i, xy in points.items()},
        "points3D_id_to_ndepth": depths,  # over the focal length: the size of a pixel there
    }
