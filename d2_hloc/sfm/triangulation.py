"""Points for a model of known poses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from d2_hloc.files.atomic import empty_folder, replace_folder
from d2_hloc.files.colmap import ModelError, camera_of, open_database, pycolmap
from d2_hloc.files.outputs import MAPPING
from d2_hloc.sfm.adjustment.outliers import drop_absurd, drop_outliers
from d2_hloc.sfm.cameras.rigs import copy_rigs
from d2_hloc.sfm.mappers import incremental_options
from d2_hloc.sfm.options import ReconstructionOptions


def triangulate(
    options: ReconstructionOptions,
    reference: pycolmap.Reconstruction,
    database: Path,
    images: Path,
    output: Path,
) -> pycolmap.Reconstruction:
    """A model with new points at the poses and intrinsics of `reference`, which stay as they are.

    Rigs are those of the database; images that share a camera there share it in the model.

    Raises:
        ModelError: if no image of the reference is in the database.
    """
    with open_database(database) as db:
        if any(rig.num_sensors() > 1 for rig in db.read_all_rigs()):
            model = copy_rigs(db, reference)
        else:
            ids = {i.name: (i.image_id, i.camera_id) for i in db.read_all_images()}
            model = with_ids(reference, ids)
    if model.num_reg_images() == 0:
        raise ModelError(f"{database}: holds none of the images of the model.")
    work = empty_folder(output.with_name(output.name + MAPPING))
    count = model.num_reg_images()
    options = options.for_images(count)
    conf = incremental_options(options, set(), is_all_known=True, num_images=count)
    model = pycolmap.triangulate_points(
        model, database, images, work, clear_points=True, options=conf, refine_intrinsics=False
    )
    absurd = drop_absurd(model)
    if options.outlier_factor is not None:
        drop_outliers(model, options.outlier_factor)
    if absurd or options.outlier_factor is not None:
        model.write(work)
    replace_folder(work, output)
    return model


def with_ids(
    reference: pycolmap.Reconstruction, ids: Mapping[str, tuple[int, int]]
) -> pycolmap.Reconstruction:
    """The poses and cameras of a model under a database's image and camera ids, without points."""
    model = pycolmap.Reconstruction()
    for image in sorted(reference.images.values(), key=lambda i: i.name):
        if not image.has_pose or image.name not in ids:
            continue
        image_id, camera_id = ids[image.name]
        if not model.exists_camera(camera_id):
            camera = pycolmap.Camera(camera_of(image).todict() | {"camera_id": camera_id})
            model.add_camera_with_trivial_rig(camera)
        copy = pycolmap.Image(name=image.name, camera_id=camera_id, image_id=image_id)
        model.add_image_with_trivial_frame(copy, image.cam_from_world())
    return model
