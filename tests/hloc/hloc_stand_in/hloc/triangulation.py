"""Features and matches -> points at a model's poses, with geometries as hloc writes them."""

import h5py
import pycolmap

from .utils.matches import get_matches


def geometric_verification(image_ids, db, pairs, matches):
    for name0, name1 in pairs:
        found = get_matches(matches, name0, name1)
        geometry = pycolmap.TwoViewGeometry(inlier_matches=found)
        db.write_two_view_geometry(image_ids[name0], image_ids[name1], geometry)


def main(sfm_dir, reference_model, image_dir, pairs, features, matches):
    sfm_dir.mkdir(parents=True, exist_ok=True)
    reference = pycolmap.Reconstruction(reference_model)
    image_ids = {image.name: image_id for image_id, image in reference.images.items()}
    pairs = [line.split() for line in pairs.read_text().splitlines()]
    with pycolmap.Database.open(sfm_dir / "database.db") as db:
        for camera in reference.cameras.values():
            db.write_camera(camera, use_camera_id=True)
        for rig in reference.rigs.values():
            db.write_rig(rig, use_rig_id=True)
        for frame in reference.frames.values():
            db.write_frame(frame, use_frame_id=True)
        with h5py.File(features) as file:
            for image_id, image in reference.images.items():
                db.write_image(image, use_image_id=True)
                db.write_keypoints(image_id, file[image.name]["keypoints"][()] + 0.5)
        for name0, name1 in pairs:
            db.write_matches(image_ids[name0], image_ids[name1], get_matches(matches, name0, name1))
        geometric_verification(image_ids, db, pairs, matches)
    return pycolmap.triangulate_points(
        reference, sfm_dir / "database.db", image_dir, sfm_dir, options={}
    )
