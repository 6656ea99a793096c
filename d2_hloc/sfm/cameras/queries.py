"""One camera of several queries: its intrinsics from all of their matches with a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from d2_hloc.core.pixels import to_colmap
from d2_hloc.files.colmap import copy_camera, pycolmap
from d2_hloc.files.model_contents import camera_problem
from d2_hloc.sfm.adjustment.outliers import adjustment_options
from d2_hloc.sfm.cameras.sharing import NO_ID

LOSS = 2.0  # pixels, beyond which an inlier's error counts less
ENOUGH = 100  # matches to estimate a distortion from


@dataclass(frozen=True)
class PlacedQuery:
    """A query's pose with a focal length of its own, and the matches that agree with it."""

    cam_from_world: pycolmap.Rigid3d
    xy: np.ndarray  # (K, 2), (0, 0) is the centre of the first pixel
    point_ids: np.ndarray  # (K,)
    focal_length: float


def by_camera(cameras: Mapping[str, pycolmap.Camera]) -> list[tuple[pycolmap.Camera, list[str]]]:
    """The cameras, and the images that each of them took; cameras of one id are one."""
    groups: dict[object, list[str]] = {}
    for name in sorted(cameras):
        camera_id = cameras[name].camera_id
        groups.setdefault(name if camera_id == NO_ID else camera_id, []).append(name)
    return [(cameras[names[0]], names) for names in groups.values()]


def shared_camera(
    camera: pycolmap.Camera, queries: Sequence[PlacedQuery], model: pycolmap.Reconstruction
) -> pycolmap.Camera | None:
    """Intrinsics that fit all queries best, by bundle adjustment at the model's own points.

    It begins from the focal length that the median match was placed with. The principal point
    stays.
    None where no query could be placed, or the intrinsics are none that can be worked with.
    """
    if not queries:
        return None
    found = copy_camera(camera)
    found.camera_id = 1
    lengths = np.concatenate([np.full(len(q.xy), q.focal_length) for q in queries])
    for index in found.focal_length_idxs():
        found.params[index] = np.median(lengths)
    scene = _scene_of(found, queries, model)
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in range(1, len(queries) + 1):
        config.add_image(image_id)
    for point_id in scene.points3D:
        config.add_constant_point(point_id)
    options = adjustment_options(LOSS, refine_distortion=len(lengths) >= ENOUGH)
    pycolmap.create_default_bundle_adjuster(options, config, scene).solve()
    shared = copy_camera(scene.cameras[1])
    shared.camera_id, shared.has_prior_focal_length = camera.camera_id, True
    return None if camera_problem(shared) else shared


def _scene_of(
    camera: pycolmap.Camera, queries: Sequence[PlacedQuery], model: pycolmap.Reconstruction
) -> pycolmap.Reconstruction:
    """The queries and the points that they see, as a model of its own.

    COLMAP adjusts no point that is seen once: an image that stays out of the adjustment, and so
    constant with its camera, sees all of them again.
    """
    scene = pycolmap.Reconstruction()
    scene.add_camera_with_trivial_rig(camera)
    tracks: dict[int, pycolmap.Track] = {}
    for image_id, query in enumerate(queries, 1):
        image = pycolmap.Image(name=str(image_id), camera_id=1, image_id=image_id)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(xy) for xy in to_colmap(query.xy)])
        scene.add_image_with_trivial_frame(image, query.cam_from_world)
        for index, point_id in enumerate(query.point_ids.tolist()):
            tracks.setdefault(point_id, pycolmap.Track()).add_element(image_id, index)
    _add_witness(scene, tracks, queries[0].cam_from_world)
    xyz = {point_id: model.points3D[point_id].xyz for point_id in tracks}
    for point_id, track in tracks.items():
        scene.add_point3D_with_id(point_id, pycolmap.Point3D(xyz=xyz[point_id], track=track))
    return scene


def _add_witness(
    scene: pycolmap.Reconstruction,
    tracks: Mapping[int, pycolmap.Track],
    cam_from_world: pycolmap.Rigid3d,
) -> None:
    """Add an image, of a camera of its own, that observes every point."""
    camera = copy_camera(scene.cameras[1])
    camera.camera_id = 2
    scene.add_camera_with_trivial_rig(camera)
    image_id = scene.num_images() + 1
    image = pycolmap.Image(name=str(image_id), camera_id=2, image_id=image_id)
    image.points2D = pycolmap.Point2DList([pycolmap.Point2D(np.zeros(2)) for _ in tracks])
    scene.add_image_with_trivial_frame(image, cam_from_world)
    for index, track in enumerate(tracks.values()):
        track.add_element(image_id, index)
