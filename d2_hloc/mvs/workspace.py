"""The folder that dense stereo works in: undistorted images, their model and its source views.

It is COLMAP's layout, `images/`, `sparse/` and `stereo/`, but its model has pixel centres at
integers: COLMAP's fusion takes pixels with the intrinsics as they are. So read it here, and show a
viewer the model that it was made from.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from d2_hloc.core.devices import sent
from d2_hloc.core.images import ImageError, fit, luma, open_image, read_image
from d2_hloc.core.names import image_name
from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.photographs.masks import check_masks, sources_of
from d2_hloc.core.photographs.tones import EIGHT_BITS, eight_bit_images
from d2_hloc.core.pixels import from_colmap, to_colmap
from d2_hloc.core.pose_metrics import camera_centre
from d2_hloc.core.text import read_json_file
from d2_hloc.files.atomic import DiskFull, free_space, mebibytes, refuse_links, write_whole
from d2_hloc.files.colmap import ModelError, camera_of, pycolmap, read_model
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.provenance import check_configuration, file_checksum, is_changed
from d2_hloc.mvs.map_files import read_stereo_map
from d2_hloc.mvs.masks import masked_depth
from d2_hloc.mvs.sources import choose_sources, depth_range
from d2_hloc.mvs.views import StereoView
from d2_hloc.sfm.exporting.masks import undistort_masks

CACHED = 16  # images, and as many depth maps, held at a time
PHOTOGRAPHS = "photographs"  # in the record: checksums by name
BYTES_PER_PIXEL = 22  # of two depth maps, normals and an image


@dataclass(frozen=True, kw_only=True)
class DenseView:
    """An undistorted image of the workspace, and what it is compared with.

    Pixel centres are at integers, depths in the model's units. `sources` are other images, best
    first; there may be none. `point_ids` are those of the model's points that it sees.
    """

    name: str
    size: tuple[int, int]  # rows, columns
    K: Float[np.ndarray, "3 3"]
    cam_from_world: Float[np.ndarray, "3 4"]
    point_ids: Int[np.ndarray, " N"]
    sources: tuple[str, ...]
    near: float
    far: float


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A workspace's views by name, and the model's points by id."""

    folder: Path
    views: Mapping[str, DenseView]
    points: Mapping[int, Float[np.ndarray, " 3"]]

    @property
    def outputs(self) -> Outputs:
        """The paths of the workspace's files."""
        return Outputs(self.folder)

    def map_path(self, name: str, kind: str, stage: str) -> Path:
        """Path of a map; `kind` is depth or normal, `stage` photometric or geometric."""
        of_image = {"depth": self.outputs.depth_map, "normal": self.outputs.normal_map}
        return of_image[kind](name, stage)


def prepare_workspace(
    model_folder: Path,
    images: Path,
    folder: Path,
    max_image_size: int,
    configuration: Mapping[str, Any],
    masks: MaskOptions | None = None,
) -> Path:
    """Undistort a model's images, and their masks, into `folder`, unless they are there already.

    `configuration` is stored beside them. The folder appears whole or not at all.

    Raises:
        ModelError: if the model has no points, or its cameras do not fit the images.
        ImageError: if an image cannot be read.
        ConfigurationChanged: if the folder was made from another model or with another
            configuration.
        DiskFull: if there is no space for the images and their maps.
    """
    _check_folders(model_folder, images, folder)
    model = read_model(model_folder)
    if not model.num_points3D():
        raise ModelError(f"{model_folder}: has no points to take depths from; triangulate it.")
    wanted = _made_from(model_folder, images, max_image_size, configuration)
    if _is_prepared(folder, wanted, images):
        return folder
    names = sorted(model.images[i].name for i in model.reg_image_ids())
    masks = masks or MaskOptions()
    check_masks(masks, names)
    check_model_images(model, images)
    _check_space(model, folder, max_image_size)
    part = folder.with_name(folder.name + ".undistorting")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    wanted[PHOTOGRAPHS] = {n: file_checksum(*sources_of(images, n, wanted)) for n in names}
    stretched = eight_bit_images(images, names, part)
    undistorted = _undistort(model_folder, stretched, part, max_image_size)
    shutil.rmtree(part / EIGHT_BITS, ignore_errors=True)
    if masks.are_asked_for:
        undistort_masks(model, undistorted, images, masks, Outputs(part).undistorted_mask)
    _shift(undistorted, from_colmap)
    undistorted.write(Outputs(part).sparse)
    write_whole(Outputs(part).workspace_record, json.dumps(wanted, indent=1).encode())
    part.replace(folder)
    return folder


def _check_folders(model_folder: Path, images: Path, folder: Path) -> None:
    if is_workspace(model_folder.parent):
        raise ModelError(
            f"{model_folder.parent}: is a folder of dense stereo, of images that were undistorted "
            "already; give the model that it was made from."
        )
    if folder.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"{folder}: lies among the images of {images}; choose another folder.")


def _made_from(
    model_folder: Path, images: Path, max_image_size: int, configuration: Mapping[str, Any]
) -> dict[str, Any]:
    files = sorted(p for p in model_folder.iterdir() if p.suffix in (".bin", ".txt"))
    digest = 0
    for path in files:
        digest = zlib.crc32(path.read_bytes(), digest)
    values = {
        "model_crc32": f"{digest:08x}",
        "images": str(images.resolve()),
        "max_image_size": max_image_size,
        **configuration,
    }
    return json.loads(json.dumps(values))


def _is_prepared(folder: Path, wanted: dict[str, Any], images: Path) -> bool:
    record = Outputs(folder).workspace_record
    if not record.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"{folder}: holds what this program did not make; choose another folder."
            )
        return False
    for written in (Outputs(folder).stereo, Outputs(folder).cloud):
        refuse_links(written)
    made_by = read_json_file(record, "choose another folder")
    photographs = made_by.pop(PHOTOGRAPHS, {})
    check_configuration(folder, made_by, wanted, "Choose another folder.")
    since = record.stat().st_mtime
    for name, checksum in _checksums(photographs, record).items():
        paths = sources_of(images, name, wanted)
        if paths[0].is_file() and is_changed(paths, checksum, since):
            raise ImageError(f"{paths[0]}: changed since {folder} was made; choose another folder.")
    return True


def _checksums(photographs: Any, record: Path) -> dict[str, tuple[int, int]]:
    """Checksums of photographs by name, as a record should have them."""
    values = photographs.values() if isinstance(photographs, dict) else [None]
    if not all(isinstance(v, list) and list(map(type, v)) == [int, int] for v in values):
        raise ValueError(f"{record}: is damaged; choose another folder.")
    return {image_name(name, record): (v[0], v[1]) for name, v in photographs.items()}


def check_model_images(model: pycolmap.Reconstruction, images: Path) -> None:
    """Decode every registered image; COLMAP would abort or take a damaged one for black.

    Raises:
        ModelError: if an image is missing or not of its camera's size.
        ImageError: if it cannot be read.
    """
    for image_id in tqdm(model.reg_image_ids(), desc="check images", unit="image"):
        image = model.images[image_id]
        camera = camera_of(image)
        path = images / image.name
        if not path.is_file():
            raise ModelError(
                f"{path}: there is no such image; give the folder of the model's images."
            )
        width, height = open_image(path).size
        if (width, height) != (camera.width, camera.height):
            raise ModelError(
                f"{path}: is {width} x {height} pixels, but its camera in the model "
                f"{camera.width} x {camera.height}; give the images that the model was made from."
            )


def _check_space(model: pycolmap.Reconstruction, folder: Path, max_image_size: int) -> None:
    """Raise DiskFull where space will not do; COLMAP does not say that it ran out of it."""
    cameras = [camera_of(model.images[i]) for i in model.reg_image_ids()]
    sizes = [fit((c.width, c.height), max_image_size) for c in cameras]
    needed = BYTES_PER_PIXEL * sum(width * height for width, height in sizes)
    if (free := free_space(folder)) < needed:
        raise DiskFull(
            f"{folder}: the disk is full; {mebibytes(needed)} MiB are needed for {len(sizes)} "
            f"images and their maps, and {free >> 20} are free."
        )


def _undistort(
    model_folder: Path, images: Path, part: Path, max_image_size: int
) -> pycolmap.Reconstruction:
    """Undistort a model's images into a folder; returns COLMAP's model of them."""
    pycolmap.undistort_images(
        part,
        model_folder,
        images,
        undistort_options=pycolmap.UndistortCameraOptions(max_image_size=max_image_size),
        jpeg_quality=98,
    )
    for script in part.glob("run-colmap-*.sh"):  # they are for a model that was not shifted
        script.unlink()
    outputs = Outputs(part)
    model = read_model(outputs.sparse)
    for image_id in model.reg_image_ids():
        name = model.images[image_id].name
        if not (outputs.undistorted_images / name).is_file():
            raise ModelError(f"{images / name}: COLMAP could not undistort it; save it as PNG.")
    return model


def _shift(model: pycolmap.Reconstruction, move: Callable[[Any], Any]) -> None:
    """Principal points and keypoints from one convention to the other."""
    for camera in model.cameras.values():
        camera.principal_point_x = move(camera.principal_point_x)
        camera.principal_point_y = move(camera.principal_point_y)
    for image in model.images.values():
        for point in image.points2D:
            point.xy = move(point.xy)


def is_workspace(folder: Path) -> bool:
    """True if prepare_workspace() made it."""
    outputs = Outputs(folder)
    return outputs.workspace_record.is_file() and outputs.stereo.is_dir()


def read_undistorted(sparse: Path) -> pycolmap.Reconstruction:
    """A model with pixel centres at half-integers, be it a workspace's own `sparse/`.

    Raises:
        ModelError: if it cannot be read.
    """
    model = read_model(sparse)
    if is_workspace(sparse.parent):
        _shift(model, to_colmap)
    return model


def read_workspace(folder: Path, num_sources: int) -> Workspace:
    """A prepared workspace's views, each with up to `num_sources` others.

    Raises:
        ModelError: if the folder is no whole workspace.
    """
    if not is_workspace(folder):
        raise ModelError(f"{folder}: is not a workspace of dense stereo; prepare it first.")
    model = read_model(Outputs(folder).sparse)
    ids = np.array(sorted(model.point3D_ids()), dtype=np.int64)
    points = np.array([model.point3D(int(i)).xyz for i in ids])
    images = sorted((model.images[i] for i in model.reg_image_ids()), key=lambda i: i.name)
    seen = [np.searchsorted(ids, _point_ids(image)) for image in images]
    poses = [image.cam_from_world().matrix() for image in images]
    centres = np.array([camera_centre(pose[:, :3], pose[:, 3]) for pose in poses])
    chosen = choose_sources(points, seen, centres, num_sources)
    views = {}
    for k, image in enumerate(images):
        span = depth_range((points[seen[k]] @ poses[k][2, :3]) + poses[k][2, 3])
        views[image.name] = DenseView(
            name=image.name,
            size=(camera_of(image).height, camera_of(image).width),
            K=camera_of(image).calibration_matrix(),
            cam_from_world=poses[k],
            point_ids=ids[seen[k]],
            sources=tuple(images[j].name for j in chosen[k]) if span else (),
            near=span[0] if span else 0.0,
            far=span[1] if span else 0.0,
        )
    by_id = dict(zip(ids.tolist(), points, strict=True))
    return Workspace(folder=folder, views=views, points=by_id)


def _point_ids(image: pycolmap.Image) -> np.ndarray:
    """Ids of the points that an image sees, each once: it may see one by two keypoints."""
    ids = [p.point3D_id for p in image.points2D if p.has_point3D()]
    return np.unique(np.array(ids, dtype=np.int64))


class WorkspaceReader:
    """A workspace's images and photometric depths as tensors, the last few of them held."""

    def __init__(self, workspace: Workspace, device: torch.device) -> None:
        self.view = lru_cache(maxsize=CACHED)(partial(_read_view, workspace, device))
        self.depth = lru_cache(maxsize=CACHED)(partial(_read_depth, workspace, device))


def _read_view(workspace: Workspace, device: torch.device, name: str) -> StereoView:
    view = workspace.views[name]
    image, _ = read_image(workspace.outputs.undistorted_images / name)
    return StereoView(
        image=sent(luma(image), device),
        K=torch.from_numpy(view.K),
        cam_from_world=torch.from_numpy(view.cam_from_world),
    )


def _read_depth(workspace: Workspace, device: torch.device, name: str) -> Float[Tensor, "H W"]:
    """Depth of a view, 0 where it is masked, or where COLMAP marks a pixel by another value."""
    depth = read_stereo_map(workspace.map_path(name, "depth", "photometric"))
    depth = masked_depth(depth, workspace.outputs.undistorted_mask(name))
    return torch.from_numpy(depth).to(device).nan_to_num(0, 0, 0).clamp(min=0)
