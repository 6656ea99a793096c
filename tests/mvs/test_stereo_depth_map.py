"""Map files: what is written is read, and what is damaged is named."""

import errno

import h5py
import numpy as np
import pytest
from PIL import Image

from d2_hloc.files import staged_h5
from d2_hloc.files.atomic import DiskFull
from d2_hloc.files.colmap import pycolmap
from d2_hloc.mvs.map_files import (
    DepthMapError,
    is_stereo_map,
    read_stereo_map,
    write_depth_h5,
    write_stereo_map,
)
from d2_hloc.training.depth_maps import read_depth
from d2_hloc.training.scene_info import SceneError

DEPTH = np.random.default_rng(0).random((31, 47), np.float32)


@pytest.mark.parametrize("shape", [(31, 47), (3, 31, 47), (3, 5, 1), (1, 1)])
def test_a_map_is_read_as_it_was_written(tmp_path, shape):
    values = np.random.default_rng(0).random(shape, np.float32)
    path = write_stereo_map(tmp_path / "folder" / "a.jpg.photometric.bin", values)
    assert np.array_equal(read_stereo_map(path), values)
    height, width = shape[-2:]
    assert is_stereo_map(path, height, width, *shape[:-2])
    assert height == width or not is_stereo_map(path, width, height, *shape[:-2])


def test_colmap_reads_the_depth(tmp_path):
    depth = pycolmap.DepthMap()
    depth.read(write_stereo_map(tmp_path / "depth.bin", DEPTH))
    assert np.array_equal(depth.to_array(), DEPTH)


def test_normals_are_planar(tmp_path):
    path = write_stereo_map(tmp_path / "normals.bin", np.stack([DEPTH, DEPTH + 1, DEPTH + 2]))
    data = path.read_bytes()
    assert data.startswith(b"47&31&3&")
    assert np.array_equal(np.frombuffer(data[8:], "<f4")[: DEPTH.size], DEPTH.ravel())


@pytest.mark.parametrize("data", [b"", b"47&31&1&", b"47&31", b"a&b&c&", b"47&31&1&" + b"0" * 99])
def test_a_damaged_map_is_named(tmp_path, data):
    path = tmp_path / "depth.bin"
    path.write_bytes(data)
    assert not is_stereo_map(path, 31, 47)
    with pytest.raises(DepthMapError, match=r"depth.bin: is damaged or cut short; delete it"):
        read_stereo_map(path)


def test_a_missing_map_is_named(tmp_path):
    assert not is_stereo_map(tmp_path / "depth.bin", 31, 47)
    with pytest.raises(DepthMapError, match="No such file"):
        read_stereo_map(tmp_path / "depth.bin")


def test_what_is_not_finite_is_refused(tmp_path):
    values = DEPTH.copy()
    values[3, 4] = np.nan
    with pytest.raises(ValueError, match="1 values are not finite"):
        write_stereo_map(tmp_path / "depth.bin", values)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(staged_h5.os, "fsync", full)
    with pytest.raises(DiskFull, match=r"depth\.bin: the disk is full; free some space"):
        write_stereo_map(tmp_path / "depth.bin", DEPTH)
    assert not list(tmp_path.iterdir())


def test_megadepths_form_is_read_as_it_was_written(tmp_path):
    path = write_depth_h5(tmp_path / "depths" / "a.h5", DEPTH)
    assert np.array_equal(read_depth(path), DEPTH)
    with h5py.File(path, "r") as file:
        assert list(file) == ["depth"]
        assert file["depth"].dtype == np.float32


def test_another_h5_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w"):
        pass
    with pytest.raises(SceneError, match=r"a\.h5: holds no depth that can be read"):
        read_depth(tmp_path / "a.h5")
    with pytest.raises(SceneError, match=r"b\.h5: there is no such depth map"):
        read_depth(tmp_path / "b.h5")
    Image.new("L", (4, 4)).save(tmp_path / "c.png")
    with pytest.raises(SceneError, match=r"c\.png: holds no depth that can be read"):
        read_depth(tmp_path / "c.png")
