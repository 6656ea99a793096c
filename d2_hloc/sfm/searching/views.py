"""Where one image of a model should show what another one does, by the model's points around."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import KDTree

from d2_hloc.core.pixels import from_colmap, to_colmap
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import camera_of, img_from_cam, pycolmap
from d2_hloc.matching.guided import epipolar_distances
from d2_hloc.refinement.affinities import local_affinities
from d2_hloc.refinement.shallow_maps import resize_max_of
from d2_hloc.sfm.two_views.epipolar import focal_matrix, fundamental_of, rays
from d2_hloc.sfm.verification import enlargements

FEWEST = 30  # points that both images observe
AROUND = 8  # points about a keypoint, of which the other image observes one at least
FARTHEST = 48.0  # pixels from a keypoint to a point that leads on


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """An image of a model, its keypoints and the points that it observes."""

    image: pycolmap.Image
    camera: pycolmap.Camera  # its intrinsics count as known
    keypoints: np.ndarray  # (N, 2), stored pixels
    point_ids: np.ndarray  # (K,)
    xyz: np.ndarray  # (K, 3)
    noise: float  # pixels in one of those that features were extracted from


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Where a second image should show places of a first."""

    index: np.ndarray  # (M,) of the places that it should show
    xy: np.ndarray  # (M, 2)
    around: tuple[np.ndarray, np.ndarray]  # (A, 2) and (A, 2): the model's points in both


def model_views(model: pycolmap.Reconstruction, features: Path) -> dict[str, ModelView]:
    """The registered images of a model, by name, with the keypoints that it was made from.

    Raises:
        StorageError: if the features cannot be used.
    """
    images = {model.images[i].name: model.images[i] for i in model.reg_image_ids()}
    cameras = {name: camera_of(image) for name, image in images.items()}
    noise = enlargements(cameras, resize_max_of(features))
    views = {}
    with features_h5.open_h5(features) as file:
        for name, image in images.items():
            cameras[name].has_prior_focal_length = True
            ids = [p.point3D_id for p in image.points2D if p.has_point3D()]
            views[name] = ModelView(
                image=image,
                camera=cameras[name],
                keypoints=features_h5.keypoints_of(file, name).astype(float),
                point_ids=np.array(ids, dtype=np.int64),
                xyz=np.array([model.points3D[i].xyz for i in ids]).reshape(-1, 3),
                noise=noise[name],
            )
    return views


def places_of_points(view: ModelView, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (K, 2) of points, stored pixels, and the mask (K,) of those within the image."""
    xy, is_seen = seen_by(view.image, view.camera, xyz)
    return from_colmap(xy), is_seen


def seen_by(
    image: pycolmap.Image, camera: pycolmap.Camera, xyz: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places (K, 2) of points in COLMAP's pixels, and the mask (K,) of those within the image."""
    in_camera = np.asarray(image.cam_from_world() * xyz).reshape(-1, 3)
    xy = img_from_cam(camera, in_camera)
    return xy, (in_camera[:, 2] > 0) & _is_inside(camera, xy)


def expected(view0: ModelView, view1: ModelView, xy0: np.ndarray) -> Expected | None:
    """Places of image 0 as image 1 should show them: by the affinity of the nearest point.

    Only where the images observe points in common is something expected; None where they have too
    few of them.
    """
    is_common = np.isin(view0.point_ids, view1.point_ids)
    if is_common.sum() < FEWEST or not len(xy0):
        return None
    (from0, is_in0), (to1, is_in1) = (
        places_of_points(view0, view0.xyz),
        places_of_points(view1, view0.xyz),
    )
    both = is_in0 & is_in1
    from0, to1, is_common = from0[both], to1[both], is_common[both]
    if not len(from0):
        return None
    count = min(AROUND, len(from0))
    distances, near = (x.reshape(-1, count) for x in KDTree(from0).query(xy0, k=count))
    at, ends, places = (torch.from_numpy(x).float() for x in (from0, to1, xy0))
    affinities = local_affinities(at, ends, places, 2 * AROUND).double().numpy()
    offsets = xy0 - from0[near[:, 0]]
    xy1 = to1[near[:, 0]] + (affinities @ offsets[:, :, None])[:, :, 0]
    shown = is_common[near].any(axis=1) & _is_inside(view1.camera, to_colmap(xy1))
    index = np.flatnonzero(shown & (distances[:, 0] < FARTHEST * view0.noise))
    return Expected(index=index, xy=xy1[index], around=(from0, to1))


def distances_to_lines(
    view0: ModelView, view1: ModelView, xy0: np.ndarray, xy1: np.ndarray
) -> np.ndarray:
    """Distances (K,) of matched places to the model's epipolar lines, pixels of image 1."""
    pose = view1.image.cam_from_world() * view0.image.cam_from_world().inverse()
    fundamental = fundamental_of(pose, focal_matrix(view0.camera), focal_matrix(view1.camera))
    points = (rays(v.camera, to_colmap(xy)) for v, xy in ((view0, xy0), (view1, xy1)))
    return epipolar_distances(fundamental, *points)


def _is_inside(camera: pycolmap.Camera, xy: np.ndarray) -> np.ndarray:
    """Mask (K,) of the places, COLMAP's pixels, within a camera's images."""
    with np.errstate(invalid="ignore"):
        is_inside = (xy > 0) & (xy < [camera.width, camera.height])
    return np.asarray(is_inside.all(axis=1))
