"""pycolmap, imported in the one safe order, and the calls that need a check before them.

zlib comes first: with pycolmap 4.1-4.2 the other order aborts the process at the next use of zlib.
"""

from __future__ import annotations

import copy
import shutil
import sqlite3
import tempfile
import zlib  # noqa: F401 - before pycolmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pycolmap
from jaxtyping import Float

from d2_hloc.core.names import UnsafeName, image_names
from d2_hloc.files import colmap_checks, model_contents, text_model_checks
from d2_hloc.files.atomic import disk_full_in_a_sentence
from d2_hloc.files.outputs import Outputs

__all__ = [
    "ModelError",
    "camera_of",
    "check_database",
    "img_from_cam",
    "is_model",
    "open_database",
    "opened_copy",
    "other_models",
    "pycolmap",
    "quiet",
    "read_model",
    "sparse_folder",
    "talk",
]


class ModelError(ValueError):
    """A model or database that cannot be used; the text names the file and the remedy."""


def quiet(with_errors: bool = True) -> None:
    """Keep COLMAP's own log to errors, or to nothing. Only the command line does so."""
    level = pycolmap.logging.ERROR if with_errors else pycolmap.logging.FATAL
    pycolmap.logging.minloglevel = int(level)


def talk() -> None:
    """Show COLMAP's own log as a whole."""
    pycolmap.logging.minloglevel = int(pycolmap.logging.INFO)


def is_model(folder: Path) -> bool:
    """True if the folder holds a COLMAP model, in its binary form or as text."""
    return any((folder / f"images.{form}").is_file() for form in ("bin", "txt"))


def read_model(folder: Path, needs_points: bool = True) -> pycolmap.Reconstruction:
    """Read a COLMAP model, be it a stranger's.

    Args:
        folder: holds the model's files, in COLMAP's binary or text form.
        needs_points: whether points3D has to be there; a model of poses has none.

    Raises:
        ModelError: if files are missing or cut short: COLMAP itself would hang on those, or say
            nothing; or if a camera or pose cannot be worked with, or a name is there twice.
        UnsafeName: if the name of an image leads out of the folder of images.
    """
    try:
        model = _read_checked(folder, needs_points)
        model_contents.check_model(model, folder)
    except UnsafeName:
        raise
    except colmap_checks.Damaged as error:
        raise ModelError(str(error)) from error
    except model_contents.BadContents as error:
        raise ModelError(f"{folder}: {error}; get the model anew.") from error
    except (RuntimeError, ValueError, IndexError) as error:
        raise ModelError(f"{folder}: its model is damaged or cut short; make it again.") from error
    return model


def _read_checked(folder: Path, needs_points: bool) -> pycolmap.Reconstruction:
    is_text = (folder / "images.txt").is_file() and not (folder / "images.bin").is_file()
    suffix, form = (".txt", text_model_checks) if is_text else (".bin", colmap_checks)
    if is_text:
        text_model_checks.check_text_model(folder, needs_points)
    else:
        colmap_checks.check_model_files(folder, _num_params, needs_points)
    if (folder / f"points3D{suffix}").is_file():
        return pycolmap.Reconstruction(folder)
    with tempfile.TemporaryDirectory() as target:
        form.without_points(folder, Path(target))
        return pycolmap.Reconstruction(target)


def camera_of(image: pycolmap.Image) -> pycolmap.Camera:
    """A copy of the camera of an image of a model, which may outlive the model.

    pycolmap's own refers to the model's memory: read after the model is gone, it ends the process.

    Raises:
        ModelError: if it has none: the image is not of a model.
    """
    if image.camera is None:
        raise ModelError(f"{image.name}: has no camera.")
    return copy_camera(image.camera)


def copy_camera(camera: pycolmap.Camera) -> pycolmap.Camera:
    """The same camera, to be changed without it, or to outlive its model."""
    return copy.copy(camera)


def img_from_cam(
    camera: pycolmap.Camera, xyz: Float[np.ndarray, "N 3"]
) -> Float[np.ndarray, "N 2"]:
    """Project points of the camera's frame, in COLMAP's coordinates."""
    # Its overload for one point takes what NumPy can convert, and is the one that checkers see.
    return np.asarray(camera.img_from_cam(xyz)).reshape(-1, 2)


def sparse_folder(path: Path) -> Path:
    """The folder of COLMAP's files: named itself, or the output or project that holds it.

    COLMAP's own projects have it in sparse/0.
    """
    sparse = Outputs(path).sparse
    found = [folder for folder in (sparse, sparse / "0", path, path / "0") if is_model(folder)]
    return found[0] if found else sparse if sparse.is_dir() else path


def other_models(sparse: Path) -> dict[str, pycolmap.Reconstruction]:
    """Models of images that the model in `sparse` could not take in, by folder: sparse/1, ...

    Raises:
        ModelError: as read_model.
    """
    folders = [f for f in sparse.glob("[0-9]*") if f.name.isdecimal() and is_model(f)]
    folders.sort(key=lambda folder: int(folder.name))
    return {f"{sparse.name}/{folder.name}": read_model(folder) for folder in folders}


def _num_params(model_id: int) -> int:
    model = pycolmap.CameraModelId(model_id)
    return len(pycolmap.Camera.create_from_model_id(0, model, 1.0, 1, 1).params)


def verified_pairs(database: pycolmap.Database) -> Iterator[tuple[int, int, int]]:
    """Ids of both images, and the number of inlier matches, of each verified pair."""
    for pair_id, count in zip(*database.read_two_view_geometry_num_inliers(), strict=True):
        if count:
            yield *pycolmap.pair_id_to_image_pair(pair_id), int(count)


def open_database(path: Path) -> pycolmap.Database:
    """Open an existing database; COLMAP itself would make a missing one.

    Raises:
        ModelError: if it is missing or not a database.
        DiskFull: if there is no space beside it, where SQLite writes.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such database.")
    if not path.stat().st_size:  # SQLite would begin a new one
        raise ModelError(f"{path}: is damaged (it is empty).")
    try:
        with disk_full_in_a_sentence(path):
            return pycolmap.Database.open(path)
    except RuntimeError as error:
        raise ModelError(f"{path}: is damaged or not a COLMAP database.") from error


@contextmanager
def opened_copy(path: Path) -> Iterator[pycolmap.Database]:
    """A copy of a database of any age, opened: COLMAP migrates an old one that it opens.

    Raises:
        ModelError: as open_database.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copyfile(path, Path(folder) / path.name))
        copy.chmod(0o600)  # the original may be read-only
        try:
            database = open_database(copy)
        except ModelError as error:
            raise ModelError(str(error).replace(str(copy), str(path))) from error
        with database:
            check_database_names(database, path)
            yield database


def check_database_names(database: pycolmap.Database, path: Path) -> None:
    """Raise UnsafeName or ModelError for an image whose name cannot be used."""
    try:
        image_names((image.name for image in database.read_all_images()), path)
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: the name of one of its images is not in UTF-8.") from error


def check_database(path: Path) -> None:
    """Raise ModelError if a database is missing or damaged; reads all of it."""
    open_database(path).close()
    connection = sqlite3.connect(path)
    try:
        ((answer,), *_) = connection.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.DatabaseError as error:
        answer = str(error)
    finally:
        connection.close()
    if answer != "ok":
        raise ModelError(f"{path}: is damaged ({' '.join(answer.split())}).")
