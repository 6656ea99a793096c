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
from safetensors.torch import save_file

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


def pipe(folder):
    os.mkfifo(folder / "pairs.txt")
    return folder / "pairs.txt"


def unix_socket(folder):
    path = folder / "s.txt"
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(folder)
        try:
            made.bind("s.txt")
        finally:
            os.chdir(here)
    return path


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
