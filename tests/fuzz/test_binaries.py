"""Binary files of any content are read, or refused by an error of the package that names them.

Each is read in a process of its own: what reads it is C code, which may end or hang the process.
"""

import io
import zipfile

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from fuzzing import batches, check_in_child, fewer, model_file
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from plyfile import PlyData, PlyElement
from safetensors import safe_open
from safetensors.torch import save
from synthetic import synthesize

from d2_hloc.benchmarks.inloc.lists import read_list, read_retrieval
from d2_hloc.benchmarks.inloc.scans import read_cutout_map
from d2_hloc.core.images import read_image
from d2_hloc.features.pretrained import check_tensors_only
from d2_hloc.features.projection import load_projection
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import check_database, opened_copy, read_model
from d2_hloc.files.staged_h5 import Staged, Value, copy_new
from d2_hloc.matching.lightglue import load_glue
from d2_hloc.mvs.cloud import read_coloured_cloud, read_point_cloud
from d2_hloc.mvs.map_files import is_stereo_map, read_stereo_map, write_stereo_map
from d2_hloc.network.weights.files import load_weights
from d2_hloc.sfm.database import build_database
from d2_hloc.sfm.poses_file import read_poses
from d2_hloc.training.depth_maps import read_depth


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("synthetic"), 3, 8)


MODEL_FILES = [
    *("cameras.bin", "images.bin", "points3D.bin", "rigs.bin", "frames.bin"),
    *("cameras.txt", "images.txt", "points3D.txt", "rigs.txt", "frames.txt"),
]


@pytest.mark.parametrize("name", MODEL_FILES)
@fewer
@given(data=st.data())
def test_models_of_any_content(scene, tmp_path, name, data):
    path, valid = model_file(scene.model, tmp_path, name)
    contents = data.draw(batches(valid, text=name.endswith("txt")))
    check_in_child(lambda path: read_model(path.parent), path, contents)


def database_of(path):
    check_database(path)
    with opened_copy(path) as database:
        for image in database.read_all_images():
            database.read_camera(image.camera_id)
            database.read_keypoints(image.image_id)
        database.read_all_matches()
        database.read_two_view_geometries()


@fewer
@given(data=st.data())
def test_databases_of_any_content(scene, tmp_path, data):
    whole = tmp_path / "whole.db"
    if not whole.exists():
        build_database(whole, scene.cameras, scene.pairs, scene.features, scene.matches)
    contents = data.draw(batches(whole.read_bytes()))
    check_in_child(database_of, tmp_path / "database.db", contents)


def write_features(path):
    with Staged(path, {"a": 1}, "keypoints") as staged:
        record = {
            "keypoints": Value(np.arange(8.0, dtype="f4").reshape(4, 2), {"uncertainty": 1.0}),
            "descriptors": Value(np.ones((3, 4), "f2")),
            "scores": Value(np.ones(4, "f2")),
            "image_size": Value(np.array([64, 48]), {"source_bytes": 3, "source_crc32": 4}),
            "global_descriptor": Value(np.ones(3, "f4")),
        }
        staged.add("a.jpg", record)


def features_of(path):
    features_h5.read_configuration(path)
    features_h5.read_failures(path)
    for name in features_h5.extracted_names(path):
        features_h5.read_features(path, name)
        features_h5.read_image_size(path, name)
        features_h5.read_global_descriptors(path, [name])
        with features_h5.open_h5(path) as file:
            features_h5.checksum_of(file, name)


def write_matches(path):
    with Staged(path, {"a": 1}, "matches0") as staged:
        record = {"matches0": np.array([1, -1, 0], "i4"), "matching_scores0": np.ones(3, "f2")}
        staged.add("a.jpg/b.jpg", {k: Value(v) for k, v in record.items()})


def staged_of(path):
    with Staged(path, {"a": 1}, "keypoints"):
        pass


def copied(path):
    with h5py.File(path.with_suffix(".copy"), "w") as target:
        copy_new(path, target, ["keypoints"])


def write_calibration(path):
    with h5py.File(path, "w") as file:
        file["K"], file["R"], file["T"] = np.eye(3) * 500, np.eye(3), np.ones(3)


def write_depth(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("depth", data=np.ones((6, 8), "f4"), compression="gzip")


def write_list(path, **options):
    poses = np.empty((1, 1), dtype=object)
    poses[0, 0] = np.eye(4)[:3]
    names = np.array([["D/0/a.jpg"]], dtype=object)
    entry = {"queryname": "q.jpg", "topNname": names, "topNscore": np.array([[0.5]]), "P": poses}
    scipy.io.savemat(path, {"ImgList": entry}, **options)


def write_cutout(path, **options):
    scipy.io.savemat(
        path, {"XYZcut": np.ones((2, 3, 3)), "RGBcut": np.ones((2, 3, 3), "u1")}, **options
    )


def write_cutout73(path):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["XYZcut"] = np.ones((3, 3, 2))


def write_ply(path):
    fields = [*((c, "f4") for c in "xyz"), *((c, "u1") for c in ("red", "green", "blue"))]
    vertices = np.zeros(5, dtype=fields)
    PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(path))


def cloud_of(path):
    read_point_cloud(path)
    read_coloured_cloud(path)


def map_of(path):
    is_stereo_map(path, 3, 4)
    return read_stereo_map(path)


def write_projection(path):
    note = {"projection": '{"is_of_roots": true, "learned_from": {}}'}
    path.write_bytes(save({"mean": torch.zeros(4), "basis": torch.ones(4, 2)}, note))


def write_glue(path):
    note = {
        "matcher": '{"shape": {"width": 8, "num_layers": 1, "num_heads": 2}, "learned_from": []}'
    }
    path.write_bytes(save({"a.weight": torch.zeros(2, 2)}, note))


def write_checkpoint(path):
    torch.save({"model": {"a.weight": torch.zeros(2, 2)}, "epoch": 3, "loss": np.float64(1)}, path)


def image_writer(form, **options):
    def write(path):
        pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).save(path, form, **options)

    return write


READERS = {
    "features.h5": (write_features, features_of),
    "copied.h5": (write_features, copied),
    "staged.h5": (write_features, staged_of),
    "matches.h5": (write_matches, lambda path: features_h5.read_matches(path, "a.jpg", "b.jpg")),
    "depth.h5": (write_depth, read_depth),
    "calibration_a.h5": (write_calibration, lambda path: read_poses(path.parent)),
    "ImgList.mat": (write_list, lambda path: (read_list(path), read_retrieval(path, 1))),
    "packed.mat": (lambda path: write_list(path, do_compression=True), read_list),
    "cutout.mat": (write_cutout, read_cutout_map),
    "cutout73.mat": (write_cutout73, read_cutout_map),
    "fused.ply": (write_ply, cloud_of),
    "depth.geometric.bin": (lambda path: write_stereo_map(path, np.ones((3, 4))), map_of),
    "projection.safetensors": (write_projection, load_projection),
    "glue.safetensors": (write_glue, load_glue),
    "weights.safetensors": (write_glue, lambda path: load_weights(str(path))),
    "weights.pth": (write_checkpoint, lambda path: load_weights(str(path))),
    "kornia.pth": (write_checkpoint, check_tensors_only),
    "image.jpg": (image_writer("JPEG"), read_image),
    "image.png": (image_writer("PNG"), read_image),
    "image.tif": (image_writer("TIFF", compression="tiff_lzw"), read_image),
    "image.webp": (image_writer("WEBP"), read_image),
    "image.bmp": (image_writer("BMP"), read_image),
    "image.ppm": (image_writer("PPM"), read_image),
}


@pytest.mark.parametrize("name", READERS)
@fewer
@given(data=st.data())
def test_files_of_any_content(tmp_path, name, data):
    write, read = READERS[name]
    path, whole = tmp_path / "of" / name, tmp_path / name
    if not whole.exists():
        path.parent.mkdir()
        write(whole)
    check_in_child(read, path, data.draw(batches(whole.read_bytes())))


@pytest.mark.parametrize("name", ["weights.pth", "kornia.pth"])
@fewer
@given(data=st.data())
def test_checkpoints_of_any_pickle(tmp_path, name, data):
    """The archive is whole, so that the pickle in it is read."""
    write, read = READERS[name]
    write(tmp_path / name)
    with zipfile.ZipFile(tmp_path / name) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    pickled = next(member for member in members if member.endswith("data.pkl"))
    path = tmp_path / "of" / name
    path.parent.mkdir(exist_ok=True)
    archives = [zipped(members | {pickled: p}) for p in data.draw(batches(members[pickled]))]
    check_in_child(read, path, archives)


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return buffer.getvalue()


NOTES = {"projection.safetensors": "projection", "glue.safetensors": "matcher"}


@pytest.mark.parametrize("name", NOTES)
@fewer
@given(data=st.data())
def test_weights_with_notes_of_any_content(tmp_path, name, data):
    write, read = READERS[name]
    write(tmp_path / name)
    with safe_open(tmp_path / name, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        note = file.metadata()[NOTES[name]].encode()
    path = tmp_path / "of" / name
    path.parent.mkdir(exist_ok=True)
    notes = [n.decode(errors="replace") for n in data.draw(batches(note, text=True))]
    check_in_child(read, path, [save(tensors, {NOTES[name]: n}) for n in notes])


def test_text_of_an_unknown_type_does_not_end_the_process(tmp_path):
    """SciPy looks such a type up beyond its table."""
    path = tmp_path / "ImgList.mat"
    write_list(path)
    data = path.read_bytes()
    at = data.index(b"\x10\x00\x00\x00\x09\x00\x00\x00D/0/a.jpg")
    contents = [data[:at] + bytes([kind]) + data[at + 1 :] for kind in (0, 8, 14, 19, 20, 100, 255)]
    check_in_child(read_list, path, contents)
