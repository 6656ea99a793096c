"""VisualSFM's NVM files: the poses of their cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from d2_hloc.core.names import image_name
from d2_hloc.core.text import numbered_lines
from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.poses_file import checked_pose, rotation_of


def read_nvm_poses(path: Path) -> dict[str, pycolmap.Rigid3d]:
    """Read the world-to-camera pose of each image of the first model.

    A line is `name focal qw qx qy qz cx cy cz radial 0`, where c is the camera's CENTRE; points are
    left aside. Names are relative to the image folder, without a leading ./.

    Raises:
        ValueError: for a file of another form, cut short, or a line that is no pose.
    """
    lines = [(n, line.split()) for n, line in numbered_lines(path)]
    if len(lines) < 2 or not lines[0][1][0].startswith("NVM_V3"):
        raise ValueError(f"{path}: is not an NVM file; its first word should be NVM_V3.")
    try:
        count = int(lines[1][1][0])
    except ValueError as error:
        raise ValueError(f"{path}, line {lines[1][0]}: expected the number of cameras.") from error
    if not 0 <= count <= len(lines) - 2:
        raise ValueError(f"{path}: says {count} cameras and holds {len(lines) - 2}; get it anew.")
    poses: dict[str, pycolmap.Rigid3d] = {}
    for number, fields in lines[2 : 2 + count]:
        where = f"{path}, line {number}"
        name, pose = _camera(fields, where)
        if name in poses:
            raise ValueError(f"{where}: gives the pose of {name} for the second time.")
        poses[name] = pose
    return poses


def _camera(fields: list[str], where: str) -> tuple[str, pycolmap.Rigid3d]:
    try:
        numbers = np.array([float(f) for f in fields[2:9]])
    except ValueError as error:
        raise ValueError(f"{where}: expected 'name focal qw qx qy qz cx cy cz ...'.") from error
    if len(numbers) != 7 or not np.isfinite(numbers).all():
        raise ValueError(f"{where}: expected 'name focal qw qx qy qz cx cy cz ...'.")
    rotation = rotation_of(numbers[:4], where)
    name = image_name(fields[0].removeprefix("./"), where)
    return name, checked_pose(rotation, -(rotation * numbers[4:]), where)
