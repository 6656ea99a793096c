"""Points of known places that two cameras of a known pose see, with noise and wrong matches."""

import numpy as np

from d2_hloc.core.pixels import from_colmap
from d2_hloc.files.colmap import pycolmap


def camera(focal=900.0, is_known=True, camera_id=1):
    found = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=1024, height=768, params=[focal, 512, 384, 0.02]
    )
    found.has_prior_focal_length, found.camera_id = is_known, camera_id
    return found


def pose(translation=(1.0, 0.1, 0.2)):
    rotation = pycolmap.Rotation3d(np.array([0.02, 0.2, 0.03]))
    return pycolmap.Rigid3d(rotation, np.array(translation))


def scene(relative, cameras, *, count=120, outliers=0, depth=2.0, noise=0.3, seed=0):
    """Keypoints of both images and the mask of right matches; point k matches point k."""
    rng = np.random.default_rng(seed)
    places = rng.uniform([60, 60], [960, 700], (count * 4, 2))
    depths = 5 + depth * rng.uniform(-1, 1, len(places))
    rays0 = np.concatenate([cameras[0].cam_from_img(places), np.ones((len(places), 1))], axis=1)
    there = relative * (rays0 * depths[:, None])
    places1 = cameras[1].img_from_cam(there)
    seen = ((places1 > 0) & (places1 < [1024, 768])).all(axis=1)
    places, places1 = places[seen][:count], places1[seen][:count]
    places1 = places1 + rng.normal(0, noise, places1.shape)
    random = rng.uniform([0, 0], [1024, 768], (2, outliers, 2))
    xy0, xy1 = np.concatenate([places, random[0]]), np.concatenate([places1, random[1]])
    is_right = np.arange(len(xy0)) < len(places)
    return from_colmap(xy0), from_colmap(xy1), is_right


def identity(count):
    return np.stack([np.arange(count)] * 2, axis=1)


def degrees(rotation0, rotation1):
    return np.degrees((rotation0 * rotation1.inverse()).angle())
