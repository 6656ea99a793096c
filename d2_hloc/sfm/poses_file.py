"""Files of camera poses: poses.txt, and the Image Matching Challenge's calibrations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from d2_hloc.core.text import numbered_lines
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.hdf5_guard import GuardedFile


def write_poses(path: Path, poses: Mapping[str, pycolmap.Rigid3d]) -> None:
    """Write a line `name qw qx qy qz tx ty tz` for each pose, world to camera."""
    lines = []
    for name, pose in sorted(poses.items()):
        x, y, z, w = pose.rotation.quat
        numbers = [w, x, y, z, *pose.translation]
        lines.append(" ".join([name, *(f"{n:.12g}" for n in numbers)]) + "\n")
    write_atomically(path, "".join(lines).encode())


def read_poses(path: Path) -> dict[str, pycolmap.Rigid3d]:
    """Poses by name; the last seven numbers of a line are the pose, so ground truth reads too.

    A folder is the Image Matching Challenge's ground truth (read_calibrations).

    Raises:
        ValueError: for a missing file or a line of another form.
    """
    if path.is_dir():
        return {name: pose for name, (_, pose) in read_calibrations(path).items()}
    poses = {}
    for number, line in numbered_lines(path):
        name, *fields = line.split()
        try:
            qw, qx, qy, qz, *translation = map(float, fields[-7:])
            poses[name] = pycolmap.Rigid3d(pycolmap.Rotation3d([qx, qy, qz, qw]), translation)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: expected 'name qw qx qy qz tx ty tz'."
            ) from error
    return poses


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
            with GuardedFile(path) as file:
                k, r, t = (np.array(file[name][()], float) for name in ("K", "R", "T"))
            pose = pycolmap.Rigid3d(pycolmap.Rotation3d(r.reshape(3, 3)), t.reshape(3))
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: does not hold K, R and T of a camera.") from error
        found[path.stem.removeprefix(PREFIX) + ".jpg"] = k.reshape(3, 3), pose
    if not found:
        raise ValueError(f"{folder}: holds no {PREFIX}*.h5; give a file of poses or such a folder.")
    return found
