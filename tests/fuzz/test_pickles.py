"""Scenes and caches of pickled arrays, of any content, are read or refused; nothing in them acts.

The archives are whole, so that the pickles in them are read.
"""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
from fuzzing import check, damaged
from hypothesis import given
from hypothesis import strategies as st

from d2_hloc.benchmarks.hpatches.results import read_summaries
from d2_hloc.benchmarks.hpatches.shared_results import AccuracyCache, write_accuracy_cache
from d2_hloc.training.scene_info import objects, read_scene


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def scene():
    """A scene of two views and one without a depth map, in D2-Net's form and in LoFTR's."""
    pair = objects([(np.array([0, 1]), np.float64(0.7), np.zeros((2, 2)))])
    return {
        "image_paths": npy(objects(["a.jpg", "b/c.jpg", None])),
        "depth_paths": npy(objects(["a.h5", "b/c.h5", None])),
        "intrinsics": npy(objects([np.eye(3)] * 3)),
        "poses": npy(objects([np.eye(4), np.eye(4, dtype="f4"), np.eye(4)])),
        "overlap_matrix": npy(np.array([[-1, 0.7, -1], [0.6, -1, -1], [-1, -1, -1]])),
        "scale_ratio_matrix": npy(np.ones((3, 3))),
        "pair_infos": npy(pair),
    }


SCENE = scene()


def write_scene(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def scene_of(path):
    found = read_scene(path, (0.1, 1.0), 5.0)
    for view in found.views.values():
        assert np.isfinite(view.intrinsics).all()
        assert np.isfinite(view.cam_from_world).all()
    assert set(found.pairs.ravel().tolist()) <= set(found.views)


def protocol_4(data):
    """The same .npy with another pickle of its objects, where it is one."""
    start = 10 + struct.unpack("<H", data[8:10])[0]
    return data[:start] + pickle.dumps(np.load(io.BytesIO(data), allow_pickle=True), protocol=4)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of pickletools
@pytest.mark.parametrize("key", SCENE)
@given(data=st.data())
def test_scenes_of_any_content(tmp_path, key, data):
    members = dict(SCENE)
    if key != "pair_infos":
        del members["pair_infos"]
    valid = members[key]
    if b"|O" in valid[:128] and data.draw(st.booleans()):
        valid = protocol_4(valid)
    members[key] = data.draw(damaged(valid))
    write_scene(tmp_path / "0000.npz", members)
    check(scene_of, tmp_path / "0000.npz")


@given(data=st.data())
def test_archives_of_any_content(tmp_path, data):
    write_scene(tmp_path / "whole.npz", SCENE)
    path = tmp_path / "0000.npz"
    path.write_bytes(data.draw(damaged((tmp_path / "whole.npz").read_bytes())))
    check(scene_of, path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@given(data=st.data())
def test_accuracy_caches_of_any_content(tmp_path, data):
    cache = AccuracyCache(
        illumination={1: 0.5, 2: 0.7}, viewpoint={1: 0.2}, kinds="iv", num_features=[9, 8, 7],
        num_matches=[4, 5],
    )  # fmt: skip
    write_accuracy_cache(tmp_path / "whole.npy", cache)
    valid = (tmp_path / "whole.npy").read_bytes()
    if data.draw(st.booleans()):
        valid = protocol_4(valid)
    path = tmp_path / "d2.npy"
    path.write_bytes(data.draw(damaged(valid)))
    check(read_summaries, path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("key", ["intrinsics", "poses"])
def test_cameras_that_are_no_numbers_are_refused(tmp_path, key, value):
    size = 3 if key == "intrinsics" else 4
    members = SCENE | {key: npy(objects([np.full((size, size), value)] * 3))}
    write_scene(tmp_path / "0000.npz", members)
    with pytest.raises(ValueError, match=r"0000\.npz"):
        read_scene(tmp_path / "0000.npz", (0.1, 1.0), 5.0)


@pytest.mark.parametrize("value", [5, b"a.jpg", ["a.jpg"], np.zeros(3), "/etc/passwd", "../a.jpg"])
@pytest.mark.parametrize("key", ["image_paths", "depth_paths"])
def test_paths_that_are_no_names_are_refused(tmp_path, key, value):
    write_scene(tmp_path / "0000.npz", SCENE | {key: npy(objects(["a", value, None]))})
    with pytest.raises(ValueError, match=r"0000\.npz"):
        read_scene(tmp_path / "0000.npz", (0.1, 1.0), 5.0)
