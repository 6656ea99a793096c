"""Files of camera poses: poses.txt, and the Image Matching Challenge's calibrations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from d2_hloc.core.names import has_space, image_name, split_entry
from d2_hloc.core.text import numbered_lines
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.hdf5_guard import GuardedFile

UNIT = 1e-2  # what a quaternion's length may differ from 1 by; written with few digits, it does
FARTHEST = 1e9  # of a translation, in any unit


def write_poses(path: Path, poses: Mapping[str, pycolmap.Rigid3d]) -> None:
    """Write a line `name qw qx qy qz tx ty tz` for each pose, world to camera.

    A tab is after names with spaces.
    """
    lines = []
    for name, pose in sorted(poses.items()):
        x, y, z, w = pose.rotation.quat
        numbers = [w, x, y, z, *pose.translation]
        start = name + ("\t" if has_space(name) else " ")
        start = f"./{start}" if name.startswith("#") else start
        lines.append(start + " ".join(f"{n:.12g}" for n in numbers) + "\n")
    write_atomically(path, "".join(lines).encode())


def read_poses(path: Path) -> dict[str, pycolmap.Rigid3d]:
    """Poses by name; the last seven numbers of a line are the pose, so ground truth reads too.

    A folder is the Image Matching Challenge's ground truth (read_calibrations).

    Raises:
        ValueError: for a missing file, a line of another form, what is no rotation, or an image
            that is there twice.
        UnsafeName: for a name that leads out of the folder of images.
    """
    if path.is_dir():
        return {name: pose for name, (_, pose) in read_calibrations(path).items()}
    poses = {}
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        name, fields = split_entry(line, pycolmap.CameraModelId.__members__)
        name = image_name(name, where)
        try:
            numbers = np.array([float(field) for field in fields[-7:]])
        except ValueError as error:
            raise ValueError(f"{where}: expected 'name qw qx qy qz tx ty tz'.") from error
        if len(numbers) != 7:
            raise ValueError(f"{where}: expected 'name qw qx qy qz tx ty tz'.")
        if name in poses:
            raise ValueError(f"{where}: gives the pose of {name} for the second time.")
        poses[name] = checked_pose(rotation_of(numbers[:4], where), numbers[4:], where)
    return poses


def rotation_of(quaternion: np.ndarray, where: str) -> pycolmap.Rotation3d:
    """Rotation of a quaternion w, x, y, z, which may be of a length near 1.

    Raises:
        ValueError: for any other length; the text begins with `where` it stands.
    """
    length = float(np.linalg.norm(quaternion))
    if not abs(length - 1) <= UNIT:  # nor NaN
        raise ValueError(f"{where}: its quaternion has the length {length:.3g}, not 1.")
    return pycolmap.Rotation3d(np.roll(quaternion, -1) / length)


def checked_pose(
    rotation: pycolmap.Rotation3d, translation: np.ndarray, where: str
) -> pycolmap.Rigid3d:
    """Pose of a translation that can be meant.

    Raises:
        ValueError: if it is not finite, or far beyond any scene; the text begins with `where` it
            stands.
    """
    if not (np.abs(translation) <= FARTHEST).all():  # nor NaN
        numbers = " ".join(f"{number:g}" for number in translation)
        raise ValueError(
            f"{where}: its translation {numbers} is not from {-FARTHEST:g} to {FARTHEST:g}."
        )
    return pycolmap.Rigid3d(rotation, translation)


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
            r, t, k = r.reshape(3, 3), t.reshape(3), k.reshape(3, 3)
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: does not hold K, R and T of a camera.") from error
        if not np.allclose(r @ r.T, np.eye(3), atol=1e-3) or np.linalg.det(r) < 0:
            raise ValueError(f"{path}: its R is not a rotation.")
        pose = checked_pose(pycolmap.Rotation3d(r), t, str(path))
        found[path.stem.removeprefix(PREFIX) + ".jpg"] = k, pose
    if not found:
        raise ValueError(f"{folder}: holds no {PREFIX}*.h5; give a file of poses or such a folder.")
    return found
