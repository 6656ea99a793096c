"""HDF5 files of strangers: what is no plain number, or lies elsewhere, is refused by name."""

import os
import re

import h5py
import numpy as np
import pytest

from d2_hloc.files import features_h5, hdf5_datasets
from d2_hloc.files.hdf5_guard import GuardedFile, Refused
from d2_hloc.files.merging import merge
from d2_hloc.files.shards import Shard, shard_path
from d2_hloc.files.staged_h5 import Staged, Value, copy_new


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features.h5"


def external(group):
    secret = group.file.filename + ".secret"
    with open(secret, "wb") as file:  # noqa: PTH123
        file.write(b"root:x:0:0:secret" * 4)
    group.create_dataset("keypoints", (8, 2), "f4", external=[(secret, 0, h5py.h5f.UNLIMITED)])


def virtual(group):
    other = group.file.filename + ".other"
    with h5py.File(other, "w") as file:
        file["data"] = np.ones((8, 2), "f4")
    layout = h5py.VirtualLayout((8, 2), "f4")
    layout[:] = h5py.VirtualSource(other, "data", (8, 2))
    group.create_virtual_dataset("keypoints", layout)


def references(group):
    group.create_dataset("keypoints", data=[group.ref] * 3, dtype=h5py.ref_dtype)


def without_end(group):
    group.create_dataset("keypoints", (2**50, 2), "f4", chunks=(1024, 2))


def bomb(group):
    group.create_dataset("keypoints", (2**24, 2), "f4", chunks=(2**20, 2), compression="gzip")


WRITERS = {
    "external storage": (external, "takes its numbers from another file"),
    "virtual": (virtual, "takes its numbers from another file"),
    "references": (references, "does not hold plain numbers"),
    "text": (lambda g: g.create_dataset("keypoints", data="a"), "does not hold plain numbers"),
    "rows of text": (
        lambda g: g.create_dataset("keypoints", data=["a", "b"]),
        "does not hold plain numbers",
    ),
    "rows of any length": (
        lambda g: g.create_dataset("keypoints", (3,), h5py.vlen_dtype(np.float32)),
        "does not hold plain numbers",
    ),
    "fields": (
        lambda g: g.create_dataset("keypoints", (3,), [("x", "f4"), ("y", "f4")]),
        "does not hold plain numbers",
    ),
    "nothing": (
        lambda g: g.create_dataset("keypoints", data=h5py.Empty("f4")),
        "does not hold plain numbers",
    ),
    "without end": (without_end, r"says that it holds 9007199254740992 bytes, more than"),
    "packed": (bomb, r"says that it holds 134217728 bytes, packed more than 256 times"),
    "soft link": (
        lambda g: g.__setitem__("keypoints", h5py.SoftLink("/other")),
        "leads elsewhere by a link",
    ),
    "external link": (
        lambda g: g.__setitem__("keypoints", h5py.ExternalLink("other.h5", "/a.jpg/keypoints")),
        "leads to another file by a link",
    ),
    "a link to itself": (
        lambda g: g.__setitem__("keypoints", h5py.ExternalLink("features.h5", "/a.jpg/keypoints")),
        "leads to another file by a link",
    ),
    "a link upwards": (
        lambda g: g.__setitem__(
            "keypoints", h5py.ExternalLink("../x.shards/0001-of-0001.h5", "/a.jpg/keypoints")
        ),
        "leads to another file by a link",
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_no_plain_number_of_the_file_is_refused(path, kind):
    write, reason = WRITERS[kind]
    with h5py.File(path, "w") as file:
        write(file.create_group("a.jpg"))
        file["other"] = np.ones((8, 2), "f4")
    sentence = re.escape(f"{path}: a.jpg/keypoints") + f".*{reason}"
    with pytest.raises(Refused, match=sentence), GuardedFile(path) as file:
        file["a.jpg"]["keypoints"][()]
    with pytest.raises(ValueError, match=rf"features\.h5: .*{reason}"):
        features_h5.read_features(path, "a.jpg")


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_no_plain_number_is_not_copied_either(path, kind):
    with h5py.File(path, "w") as file:
        file["a.jpg/scores"] = np.ones(8)
        WRITERS[kind][0](file["a.jpg"])
    with h5py.File(path.with_name("copy.h5"), "w") as target:
        with pytest.raises(Refused, match=r"features\.h5"):
            copy_new(path, target, ["scores"])
        assert "a.jpg" not in target


def test_plain_numbers_text_and_yes_or_no_are_read(path):
    with h5py.File(path, "w") as file:
        file["a/b.jpg/keypoints"] = np.arange(6.0, dtype=">f8").reshape(3, 2)
        file["a/b.jpg/mask"] = np.array([True, False])
        file["a/b.jpg/keypoints"].attrs["uncertainty"] = 1.5
        file["a/b.jpg/keypoints"].attrs["said"] = "by hand"
        file.attrs["configuration"] = "{}"
    with GuardedFile(path) as file:
        keypoints = file["a/b.jpg"]["keypoints"]
        assert keypoints[1].tolist() == [2, 3]
        assert np.array_equal(keypoints, np.arange(6).reshape(3, 2))
        assert keypoints.shape == (3, 2)
        assert len(keypoints) == 3
        assert keypoints.ndim == 2
        assert dict(keypoints.attrs) == {"uncertainty": 1.5, "said": "by hand"}
        assert file["/a//b.jpg/mask"][()].tolist() == [True, False]
        assert file.attrs.get("configuration") == "{}"
        assert file.attrs.get("failures", "none") == "none"
        assert file.keys_with("keypoints") == {"a/b.jpg"}
        assert [name for name, _ in file["a/b.jpg"].items()] == ["keypoints", "mask"]
        assert "a/b.jpg/scores" not in file
        assert "a/b.jpg/keypoints/x" not in file
        with pytest.raises(KeyError, match=r"c\.jpg: is not there"):
            file["c.jpg"]


def test_attributes_are_numbers_or_text(path):
    with h5py.File(path, "w") as file:
        file.attrs["reference"] = file.ref
        rows = np.empty(2, dtype=object)
        rows[:] = [np.ones(2), np.ones(3)]
        file.attrs.create("rows", rows, dtype=h5py.vlen_dtype(np.float64))
    with GuardedFile(path) as file:
        for name in file.attrs:
            with pytest.raises(Refused, match=f"{name} is neither numbers nor text"):
                file.attrs[name]


def test_groups_within_groups_without_end_are_refused(path):
    with h5py.File(path, "w", libver="latest") as file:
        group = file
        for _ in range(20_000):  # enough for HDF5 to follow them until the stack overflows
            group = group.create_group("a")
        group["keypoints"] = np.zeros((0, 2))
    with pytest.raises(Refused, match="groups within groups without end"):
        features_h5.extracted_names(path)


def test_groups_that_hold_themselves_end(path):
    with h5py.File(path, "w") as file:
        file["a/keypoints"] = np.zeros((0, 2))
        file["a/again"] = file["/"]
    assert features_h5.extracted_names(path) == ["a"]


def test_a_pipe_is_no_file(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match="is not a regular file"):
        GuardedFile(path)
    with pytest.raises(features_h5.StorageError, match=r"features\.h5: is not a regular file"):
        features_h5.open_h5(path)


def test_links_of_merge_lead_to_the_files_own_shards_alone(path):
    for k, name in enumerate(("a.jpg", "b/c.jpg"), 1):
        shard_path(path, Shard(k, 2)).parent.mkdir(exist_ok=True)
        with Staged(shard_path(path, Shard(k, 2)), {}, "keypoints") as staged:
            staged.add(name, {"keypoints": Value(np.full((k, 2), k))})
    merge(path, link=True)
    with GuardedFile(path) as file:
        assert file.keys_with("keypoints") == {"a.jpg", "b/c.jpg"}
        assert file["b/c.jpg"]["keypoints"][()].tolist() == [[2, 2], [2, 2]]
        assert file["b/c.jpg/keypoints"].shape == (2, 2)
    with h5py.File(shard_path(path, Shard(1, 2)), "a") as shard:
        shard["d.jpg"] = h5py.ExternalLink("features.h5.shards/0002-of-0002.h5", "b/c.jpg")
        del shard["a.jpg"]
        shard["a.jpg"] = h5py.ExternalLink("0002-of-0002.h5", "b/c.jpg")
    with (
        GuardedFile(path) as file,
        pytest.raises(Refused, match=r"0001-of-0002\.h5: a\.jpg leads"),
    ):
        file["a.jpg"]
    with h5py.File(path, "a") as file:
        del file["a.jpg"]
        file["e.jpg"] = h5py.ExternalLink("features.h5.shards/0002-of-0002.h5", "b/c.jpg")
    with GuardedFile(path) as file, pytest.raises(Refused, match=r"features\.h5: e\.jpg leads to"):
        file.keys_with("keypoints")


def test_a_size_that_can_be_meant_is_read(path, monkeypatch):
    monkeypatch.setattr(hdf5_datasets, "SMALL", 1000)
    with h5py.File(path, "w") as file:
        file["random"] = np.random.default_rng(0).random((100, 100))
        file.create_dataset("packed", data=np.zeros((100, 1000)), compression="gzip")
    with GuardedFile(path) as file:
        assert file["random"].shape == (100, 100)
        with pytest.raises(Refused, match="packed more than 256 times"):
            file["packed"]
