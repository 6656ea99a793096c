"""Files that no reader should trust, one function a kind: each writes into a folder, and says what.

A text or a few bytes each; nothing of this is stored.
"""

import hashlib
import io
import os
import pickle
import socket
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import scipy.io
import torch
from hostile_pickles import BYTES_AS_OBJECTS, Call
from PIL import Image
from safetensors.torch import save_file

from d2_hloc.files.colmap import pycolmap

CAMERA = "PINHOLE 64 48 50 50 32 24"
NAMES = {"absolute": "/etc/evil.jpg", "upwards": "../../evil.jpg"}


def text(name, content):
    """A writer of a text file."""

    def write(folder):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def model(change=lambda files: files):
    """A writer of a model in text: two images, one point."""
    files = {
        "cameras.txt": f"# Number of cameras: 1\n1 {CAMERA}\n",
        "images.txt": "# Number of images: 2\n1 1 0 0 0 0 0 0 1 a.png\n5 5 1\n"
        "2 1 0 0 0 1 0 0 1 b.png\n6 5 1\n",
        "points3D.txt": "# Number of points: 1\n1 0 0 5 9 9 9 0.5 1 0 2 0\n",
    }

    def write(folder):
        path = folder / "model"
        path.mkdir()
        for name, content in change(dict(files)).items():
            (path / name).write_text(content)
        return path

    return write


def replaced(name, old, new):
    return model(lambda files: files | {name: files[name].replace(old, new)})


def hdf5(name, write_group):
    """A writer of features with one group that is written by a function."""

    def write(folder):
        path = folder / name
        with h5py.File(path, "w") as file:
            write_group(file.create_group("a.png"), folder)
        return path

    return write


def external(group, folder):
    (folder / "secret").write_bytes(b"root:x:0:0:secret" * 4)
    storage = [(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)]
    group.create_dataset("keypoints", (8, 2), "f4", external=storage)


def numbers(value):
    def write(group, _):
        group["keypoints"] = np.full((3, 2), value, "f4")
        group["descriptors"] = np.ones((4, 3), "f2")

    return write


H5 = {
    "external": external,
    "soft link": lambda g, _: g.__setitem__("keypoints", h5py.SoftLink("/other")),
    "external link": lambda g, _: g.__setitem__("keypoints", h5py.ExternalLink("x.h5", "/k")),
    "huge": lambda g, _: g.create_dataset("keypoints", (2**50, 2), "f4", chunks=(1024, 2)),
    "text": lambda g, _: g.create_dataset("keypoints", data=["a", "b"]),
    "references": lambda g, _: g.create_dataset("keypoints", data=[g.ref], dtype=h5py.ref_dtype),
    "nan": numbers(np.nan),
    "infinite": numbers(np.inf),
}


def scene(paths, pickled=None):
    """A writer of scene_info/0000.npz in D2-Net's form."""

    def write(folder):
        path = folder / "scene_info" / "0000.npz"
        path.parent.mkdir()
        arrays = {"image_paths": paths, "depth_paths": paths}
        columns = {key: np.array(value, dtype=object) for key, value in arrays.items()}
        columns |= {"intrinsics": np.stack([np.eye(3)] * 2), "poses": np.stack([np.eye(4)] * 2)}
        columns |= {"overlap_matrix": np.ones((2, 2)), "scale_ratio_matrix": np.ones((2, 2))}
        with zipfile.ZipFile(path, "w") as archive:
            for key, value in columns.items():
                archive.writestr(f"{key}.npy", npy(value, pickled if key in arrays else None))
        return path

    return write


def megadepth(paths, pickled=None):
    """A writer of a data set that is nothing but such a file."""

    def write(folder):
        path = folder / "megadepth"
        path.mkdir()
        scene(paths, None if pickled is None else pickle.dumps(pickled, protocol=4))(path)
        return path

    return write


def npy(array, pickled=None):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    if pickled is None:
        return buffer.getvalue()
    header = 10 + struct.unpack("<H", buffer.getvalue()[8:10])[0]
    return buffer.getvalue()[:header] + pickled


def hostile_npy(folder):
    path = folder / "cache.npy"
    pickled = pickle.dumps(BYTES_AS_OBJECTS, protocol=4)
    path.write_bytes(npy(np.array([None] * 8, dtype=object), pickled))
    return path


def code(folder):
    """A pickle that leaves a file where it is run."""
    return pickle.dumps(Call(os.mkdir, str(folder / "code was run")), protocol=2)


def checkpoint_of_code(folder):
    path = folder / "weights.pth"
    path.write_bytes(code(folder))
    return path


def checkpoint_of_another_shape(folder):
    path = folder / "weights.pth"
    torch.save({"model": {"dense_feature_extraction.model.0.weight": torch.zeros(3, 3)}}, path)
    return path


def safetensors_of_another_shape(folder):
    path = folder / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    return path


def image_list(name):
    def write(folder):
        path = folder / "ImgList.mat"
        names = np.array([[name]], dtype=object)
        entry = {"queryname": "q.jpg", "topNname": names, "topNscore": np.array([[0.5]])}
        scipy.io.savemat(path, {"ImgList": entry})
        return path

    return write


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb():
    """A PNG of 60,000 x 60,000 pixels, and a few bytes."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + head + rows + chunk(b"IEND", b"")


def images(*contents):
    """A writer of a folder of images, by their bytes."""

    def write(folder):
        path = folder / "photos"
        path.mkdir()
        for k, content in enumerate(contents):
            (path / f"{k}.png").write_bytes(content)
        return path

    return write


def named_images(*names):
    """A writer of a folder of images that are whole, under names that may be bytes."""

    def write(folder):
        path = folder / "photos"
        path.mkdir()
        for k, name in enumerate(names):
            with Path(os.fsdecode(os.fsencode(path) + b"/" + name)).open("wb") as file:
                photograph(k).save(file, "PNG")
        return path

    return write


def photograph(seed, size=(64, 48)):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def pipe(folder, name="pairs.txt"):
    os.mkfifo(folder / name)
    return folder / name


def unix_socket(folder, name="s.txt"):
    path = folder / name
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(folder)
        try:
            made.bind(name)
        finally:
            os.chdir(here)
    return path


def device(folder, name="zero.txt"):
    (folder / name).symlink_to("/dev/zero")
    return folder / name


def no_images(make):
    """A writer of a folder whose images are all pipes, say."""

    def write(folder):
        path = folder / "photos"
        path.mkdir()
        for name in ("a.png", "b.png"):
            make(path, name)
        return path

    return write


def database(*names):
    """A writer of a collection: images/, and COLMAP's database of images of these names."""

    def write(folder):
        path = folder / "collection"
        (path / "images").mkdir(parents=True)
        with pycolmap.Database.open(path / "database.db") as made:
            camera = pycolmap.Camera(model="PINHOLE", width=64, height=48, params=[50, 50, 32, 24])
            camera_id = made.write_camera(camera)
            for name in names:
                made.write_image(pycolmap.Image(name=name, camera_id=camera_id))
        return path

    return write


AACHEN = {
    "3D-models/aachen_cvpr2018_db.nvm": "NVM_V3\n\n2\na.png 50 1 0 0 0 0 0 0 0 0\n"
    "b.png 50 1 0 0 0 1 0 0 0 0\n0\n",
    "3D-models/database_intrinsics.txt": f"a.png {CAMERA}\nb.png {CAMERA}\n",
    "queries/night_time_queries_with_intrinsics.txt": f"q.png {CAMERA}\n",
    "image_pairs_to_match.txt": "a.png b.png\nq.png a.png\n",
}


def aachen(name, old="", new=""):
    """A writer of a data set in Aachen's layout, one of whose files is changed."""

    def write(folder):
        path = folder / "aachen"
        for place, content in AACHEN.items():
            (path / place).parent.mkdir(parents=True, exist_ok=True)
            (path / place).write_text(content.replace(old, new) if place == name else content)
        (path / "images" / "images_upright").mkdir(parents=True)
        for k, image in enumerate(("a.png", "b.png", "q.png")):
            photograph(k).save(path / "images" / "images_upright" / image)
        return path

    return write


def snapshot(folder, without=()):
    """Kind, size and digest of everything below a folder, links not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if any(path.is_relative_to(other) for other in without):
            continue
        mode = path.lstat().st_mode
        content = str(path.readlink()) if stat.S_ISLNK(mode) else ""
        if stat.S_ISREG(mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = stat.S_IFMT(mode), content
    return found
