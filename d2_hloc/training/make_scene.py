"""A COLMAP model and depth maps -> a data set to train with, in MegaDepth's form (a step)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from d2_hloc.core.images import open_image
from d2_hloc.files.atomic import refuse_links, write_whole
from d2_hloc.files.colmap import ModelError, camera_of, pycolmap, sparse_folder
from d2_hloc.files.outputs import Outputs
from d2_hloc.mvs.map_files import read_stereo_map, write_depth_h5
from d2_hloc.mvs.workspace import read_undistorted
from d2_hloc.training.depth_maps import read_depth
from d2_hloc.training.scene_info import SceneError, objects, pair_matrices

UNDISTORTED = ("PINHOLE", "SIMPLE_PINHOLE")


def make_training_scene(
    model: Path, depth: Path, output: Path, images: Path | None = None, name: str = "0000"
) -> Path:
    """Write OUTPUT/scene_info/NAME.npz and return it.

    `model` is a COLMAP model of undistorted images: a folder of dense stereo, COLMAP's or ours, or
    the model's files; `images` are beside them by default. `depth` is a folder of dense stereo too,
    or holds each image's map, of the image's size and in the model's unit: `<image name>.h5` with
    the dataset `depth`, or `<image name>.geometric.bin`, which is copied to OUTPUT/depths/NAME/ in
    the other form. Images without a map stay in the scene and are never paired. Paths of a scene
    stay below OUTPUT: to images and maps elsewhere there are links in OUTPUT/linked/NAME/.

    Raises:
        SceneError: if cameras are distorted, or fewer than two images have depth maps.
        ModelError: if the model cannot be read or there is no folder of images.
        DepthMapError: if a depth map is damaged.
        DiskFull: if there is no space.
    """
    if Path(name).name != name or name == "..":
        raise SceneError(f"{name!r} is no name of a scene; give one such as 0000.")
    reconstruction = read_undistorted(sparse_folder(model))
    images = images or Outputs(sparse_folder(model).parent).undistorted_images
    if not images.is_dir():
        raise ModelError(f"{images}: there is no such folder; name the images' by --images.")
    registered = sorted(
        (reconstruction.images[i] for i in reconstruction.reg_image_ids()), key=lambda i: i.name
    )
    check_pinholes(model, registered)
    maps = find_maps(depth, images, [image.name for image in registered])
    rows = [_geometry(image, reconstruction) for image in registered]
    for folder in ("scene_info", "depths"):
        refuse_links(output / folder)
    images_below = within(output, images, name, "images")
    maps_below = within(output, maps_folder(depth), name, "depths")
    for row, image in tqdm(list(zip(rows, registered, strict=True)), desc="scene", unit="image"):
        found, path = maps.get(image.name), images / image.name
        row["image_paths"] = f"{images_below}/{image.name}" if found else None
        if found:
            values = read_depth(found) if found.suffix == ".h5" else read_stereo_map(found)
            check_sizes(image, {found: values.shape[::-1], path: open_image(path).size})
            below = maps_below if found.suffix == ".h5" else f"depths/{name}"
            row["depth_paths"] = f"{below}/{image.name}.h5"
            if found.suffix != ".h5":
                copy_depth(values, output / row["depth_paths"])
        else:
            row["depth_paths"] = None
    return write_scene(rows, output / "scene_info" / f"{name}.npz")


def find_maps(depth: Path, images: Path, names: Sequence[str]) -> dict[str, Path]:
    """Depth maps of the images that are there, by name.

    Raises:
        SceneError: if there are fewer than two.
    """
    found = {name: find_depth(depth, name) for name in names if (images / name).is_file()}
    maps = {name: path for name, path in found.items() if path is not None}
    if len(maps) < 2:
        raise SceneError(
            f"{depth}: holds depth maps of {len(maps)} of the {len(names)} images, and two are "
            "needed; their names are the images', followed by .h5 or .geometric.bin."
        )
    return maps


def check_pinholes(model: Path, images: list[pycolmap.Image]) -> None:
    """Raise SceneError for a camera that is not a plain pinhole."""
    for image in images:
        if camera_of(image).model.name not in UNDISTORTED:
            raise SceneError(
                f"{model}: {image.name} has a camera of model {camera_of(image).model.name}; "
                "give the model of undistorted images, as 'd2-hloc dense' makes it."
            )


def find_depth(folder: Path, name: str) -> Path | None:
    """The depth map of an image, if there is one."""
    folder = maps_folder(folder)
    candidates = folder / f"{name}.h5", folder / f"{name}.geometric.bin"
    return next((path for path in candidates if path.is_file()), None)


def maps_folder(folder: Path) -> Path:
    """The folder of depth maps: of dense stereo the one that holds them, or the folder itself."""
    maps = Outputs(folder).depth_maps
    return maps if maps.is_dir() else folder


def within(output: Path, folder: Path, name: str, kind: str) -> str:
    """The path of a folder below OUTPUT: its own where it is there, or that of a link to it.

    Raises:
        SceneError: if there is something else where the link would be, or links cannot be made.
    """
    folder, output = folder.resolve(), output.resolve()
    if folder.is_relative_to(output):
        return folder.relative_to(output).as_posix()
    link = output / "linked" / name / kind
    if link.is_symlink():
        link.unlink()
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder, target_is_directory=True)
    except OSError as error:
        raise SceneError(
            f"{link}: cannot be made a link to {folder} ({error.strerror}); put that folder below "
            f"{output}."
        ) from error
    return link.relative_to(output).as_posix()


def check_sizes(image: pycolmap.Image, sizes: Mapping[Path, tuple[int, ...]]) -> None:
    """Raise SceneError for a map, or a photograph, that is not of its camera's size."""
    size = camera_of(image).width, camera_of(image).height
    for path, its in sizes.items():
        if tuple(its) != size:
            raise SceneError(
                f"{path}: is of {' x '.join(map(str, its))} pixels, but its camera in the model of "
                f"{size[0]} x {size[1]}; all must be of the undistorted images."
            )


def copy_depth(values: np.ndarray, path: Path) -> None:
    """Write a depth map in MegaDepth's form; what is no depth becomes 0, which stands for none."""
    write_depth_h5(path, np.nan_to_num(values, nan=0, posinf=0).clip(min=0))


def write_scene(rows: list[dict[str, Any]], path: Path) -> Path:
    """The npz of D2-Net's form; paths are absolute, or relative to the data set."""
    columns = {key: objects([row[key] for row in rows]) for key in rows[0]}
    depths = [row["points3D_id_to_ndepth"] if row["depth_paths"] else {} for row in rows]
    overlap, ratio = pair_matrices(
        [np.array(list(d), dtype=np.int64) for d in depths],
        [np.array(list(d.values())) for d in depths],
    )
    columns |= {"overlap_matrix": overlap, "scale_ratio_matrix": ratio}
    columns["n_points3D"] = columns["n_points3D"].astype(int)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)  # pyright: ignore[reportArgumentType] - its allow_pickle
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, buffer.getvalue())
    return path


def _geometry(image: pycolmap.Image, model: pycolmap.Reconstruction) -> dict[str, Any]:
    """A camera and its points; normalised depths are over the focal length: a pixel's size."""
    intrinsics = camera_of(image).calibration_matrix()
    cam_from_world = np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])
    points = {p.point3D_id: p.xy for p in image.points2D if p.has_point3D()}
    focal = (intrinsics[0, 0] + intrinsics[1, 1]) / 2
    depths = {
        i: float((cam_from_world[:3] @ [*model.points3D[i].xyz, 1.0])[2] / focal) for i in points
    }
    return {
        "intrinsics": intrinsics,
        "poses": cam_from_world,
        "n_points3D": len(points),
        "points3D_id_to_2D": {i: tuple(map(float, xy)) for i, xy in points.items()},
        "points3D_id_to_ndepth": depths,
    }
