"""The Image Matching Challenge's ground truth: a folder of calibration_<image>.h5 with K, R, T."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from d2_hloc.colmap import pycolmap

PREFIX = "calibration_"


def read_calibrations(folder: Path) -> dict[str, tuple[np.ndarray, pycolmap.Rigid3d]]:
    """K (3, 3) and pose (world to camera) of each image, by its name: <image>.jpg.

    Lengths are in the unit of the challenge's model of the scene.

    Raises:
        ValueError: if the folder holds no such file, or one of another form.
    """
    found = {}
    for path in sorted(folder.glob(f"{PREFIX}*.h5")):
        try:
            with h5py.File(path) as file:
                k, r, t = (np.array(file[name][()], float) for name in ("K", "R", "T"))
            pose = pycolmap.Rigid3d(pycolmap.Rotation3d(r.reshape(3, 3)), t.reshape(3))
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: does not hold K, R and T of a camera.") from error
        found[path.stem.removeprefix(PREFIX) + ".jpg"] = k.reshape(3, 3), pose
    if not found:
        raise ValueError(f"{folder}: holds no {PREFIX}*.h5; give a file of poses or such a folder.")
    return found
