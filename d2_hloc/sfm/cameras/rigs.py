"""Rigs of a COLMAP model: cameras that are fixed to each other, and go into databases with it."""

from __future__ import annotations

from collections.abc import Mapping

from d2_hloc.files.colmap import pycolmap


def has_rigs(model: pycolmap.Reconstruction) -> bool:
    """True if a rig of the model has more than one camera; each camera is a rig of its own else."""
    return any(rig.num_sensors() > 1 for rig in model.rigs.values())


def write_rigs(
    database: pycolmap.Database,
    model: pycolmap.Reconstruction,
    image_ids: Mapping[str, int],
    camera_ids: Mapping[str, int],
) -> None:
    """Write a model's rigs into a database of its images, by the database's own ids.

    `image_ids` and `camera_ids` are those of the images, by name. A camera of a rig that took none
    of these images is written too: the others' poses may be relative to it.
    """
    images = {image.name: image for image in model.images.values()}
    cameras = {images[name].camera_id: camera_id for name, camera_id in camera_ids.items()}
    frames: dict[int, list[str]] = {}
    for name in image_ids:
        frames.setdefault(images[name].frame_id, []).append(name)
    used = {model.frames[frame_id].rig_id for frame_id in frames}
    rig_ids = {i: _write_rig(database, model, model.rigs[i], cameras) for i in sorted(used)}
    for frame_id, names in frames.items():
        frame = pycolmap.Frame()
        frame.rig_id = rig_ids[model.frames[frame_id].rig_id]
        for name in names:
            frame.add_data_id(pycolmap.data_t(_sensor(camera_ids[name]), image_ids[name]))
        database.write_frame(frame)


def _sensor(camera_id: int) -> pycolmap.sensor_t:
    return pycolmap.sensor_t(pycolmap.SensorType.CAMERA, camera_id)


def _write_rig(
    database: pycolmap.Database,
    model: pycolmap.Reconstruction,
    rig: pycolmap.Rig,
    cameras: dict[int, int],
) -> int:
    """Write a rig; `cameras` are the database's ids by the model's, and get those still missing."""
    copy = pycolmap.Rig()
    for sensor in (rig.ref_sensor_id, *rig.non_ref_sensors):
        if sensor.id not in cameras:
            cameras[sensor.id] = database.write_camera(model.cameras[sensor.id])
        if rig.is_ref_sensor(sensor):
            copy.add_ref_sensor(_sensor(cameras[sensor.id]))
        else:
            copy.add_sensor(_sensor(cameras[sensor.id]), rig.sensor_from_rig(sensor))
    return database.write_rig(copy)


def copy_rigs(
    database: pycolmap.Database, reference: pycolmap.Reconstruction
) -> pycolmap.Reconstruction:
    """A model of a database's rigs and images, at the poses of `reference`, without points."""
    posed = {image.name: image for image in reference.images.values() if image.has_pose}
    images = {image.image_id: image for image in database.read_all_images() if image.name in posed}
    model = pycolmap.Reconstruction()
    for camera in database.read_all_cameras():
        model.add_camera(camera)
    for rig in database.read_all_rigs():
        model.add_rig(rig)
    for frame in database.read_all_frames():
        found = [i for data in frame.image_ids for i in [data.id] if i in images]
        if not found:
            continue
        copy = pycolmap.Frame()
        copy.rig_id, copy.frame_id = frame.rig_id, frame.frame_id
        for data in frame.image_ids:
            if data.id in images:
                copy.add_data_id(data)
        of_reference = posed[images[found[0]].name].frame
        copy.rig_from_world = of_reference.rig_from_world
        model.add_frame(copy)
        for i in found:
            image = pycolmap.Image(name=images[i].name, camera_id=images[i].camera_id, image_id=i)
            image.frame_id = frame.frame_id
            model.add_image(image)
        model.register_frame(frame.frame_id)
    return model
