"""features.h5 and matches.h5: ours, hloc's, and what does not fit."""

import json

import h5py
import numpy as np
import pytest
import torch

from d2_hloc.core.structs import Features, Matches
from d2_hloc.files import features_h5
from d2_hloc.files.features_h5 import StorageError, features_record, matches_record, pair_key
from d2_hloc.files.staged_h5 import Staged

NAME = "db/1/photo 1.jpg"


def features_of(count, depth=8, **more):
    torch.manual_seed(count)
    return Features(
        keypoints=4000 * torch.rand(count, 2),
        scores=torch.rand(count),
        descriptors=torch.nn.functional.normalize(torch.randn(count, depth), dim=1),
        scales=torch.rand(count) + 0.5,
        **more,
    )


def write_features(path, records, **configuration):
    with Staged(path, configuration, "keypoints") as staged:
        for name, features in records.items():
            staged.add(name, features_record(features, (4000, 3000), 1.5, "float32"))
    return path


def write_matches(path, records):
    with Staged(path, {}, "matches0") as staged:
        for (name0, name1), (matches, count) in records.items():
            staged.add(pair_key(name0, name1), matches_record(matches, count))
    return path


def matches_of(*pairs):
    scores = torch.linspace(0.5, 1, len(pairs))
    return Matches(pairs=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2), scores=scores)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features.h5"


# Features


@pytest.mark.parametrize("count", [0, 1, 57])
def test_features_come_back_as_they_were(path, count):
    features = features_of(count, global_descriptor=torch.rand(16))
    write_features(path, {NAME: features})
    found = features_h5.read_features(path, NAME)
    assert features.pyramids is found.pyramids is None
    for name in ("keypoints", "scores", "descriptors", "scales", "global_descriptor"):
        value = getattr(features, name)
        assert getattr(found, name).dtype == torch.float32
        assert torch.equal(getattr(found, name), value), name
    assert features_h5.read_image_size(path, NAME) == (4000, 3000)


def test_without_a_global_descriptor_there_is_none(path):
    write_features(path, {NAME: features_of(3)})
    assert features_h5.read_features(path, NAME).global_descriptor is None


def test_the_file_has_hlocs_form(path):
    features = features_of(5)
    write_features(path, {NAME: features})
    with h5py.File(path, "r") as file:
        group = file[NAME]
        assert group["keypoints"].shape == (5, 2)
        assert group["descriptors"].shape == (8, 5)
        assert np.array_equal(group["descriptors"][()].T, features.descriptors)
        assert group["scores"].shape == (5,)
        assert group["image_size"][()].tolist() == [4000, 3000]
        assert group["keypoints"].attrs["uncertainty"] == 1.5


def test_keypoints_keep_their_hundredths_of_a_pixel_in_large_images(path):
    keypoints = torch.tensor([[2048.37, 3000.01], [5999.99, 0.25]])
    features = Features(
        keypoints=keypoints, scores=torch.ones(2), descriptors=torch.eye(2), scales=torch.ones(2)
    )
    write_features(path, {NAME: features})
    with h5py.File(path, "r") as file:
        assert file[NAME]["keypoints"].dtype == np.float32
    assert torch.equal(features_h5.read_features(path, NAME).keypoints, keypoints)


def test_descriptors_may_be_half(path):
    features = features_of(5)
    with Staged(path, {}, "keypoints") as staged:
        staged.add(NAME, features_record(features, (40, 30), 1.0, "float16"))
    found = features_h5.read_features(path, NAME)
    assert found.descriptors.dtype == torch.float16
    assert torch.equal(found.descriptors, features.descriptors.half())
    assert torch.equal(found.keypoints, features.keypoints)


def write_as_hloc(path, count=4, **more):
    """Write features as hloc does: float16 but for the size, and no scales."""
    random = np.random.default_rng(0)
    values = {
        "keypoints": random.uniform(0, 900, (count, 2)).astype(np.float16),
        "descriptors": random.normal(size=(8, count)).astype(np.float16),
        "scores": random.uniform(size=count).astype(np.float16),
        "image_size": np.array([900, 700]),
        **more,
    }
    with h5py.File(path, "a", libver="latest") as file:
        group = file.create_group(NAME)
        for name, value in values.items():
            if value is not None:
                group.create_dataset(name, data=value)
        if "keypoints" in group:
            group["keypoints"].attrs["uncertainty"] = 1.0
    return values


def test_what_hloc_wrote_is_read(path):
    values = write_as_hloc(path)
    found = features_h5.read_features(path, NAME)
    assert found.keypoints.dtype == found.scores.dtype == torch.float32
    assert np.array_equal(found.keypoints, values["keypoints"].astype(np.float32))
    assert found.descriptors.dtype == torch.float16
    assert np.array_equal(found.descriptors, values["descriptors"].T)
    assert found.scales.tolist() == [1.0] * 4
    assert features_h5.extracted_names(path) == [NAME]
    assert features_h5.read_configuration(path) is None
    assert features_h5.read_failures(path) == {}


def test_keypoints_with_more_columns_are_cut_to_x_and_y(path):
    keypoints = np.arange(16.0).reshape(4, 4)
    write_as_hloc(path, keypoints=keypoints)
    assert features_h5.read_features(path, NAME).keypoints.tolist() == keypoints[:, :2].tolist()


def test_keypoints_alone_are_features_too(path):
    write_as_hloc(path, descriptors=None, scores=None)
    found = features_h5.read_features(path, NAME)
    assert found.descriptors.shape == (4, 0)
    assert found.scores.tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("dataset", "value", "expected"),
    [
        ("descriptors", np.zeros((8, 3)), "4 keypoints, 3 descriptors and 4 scores"),
        ("scores", np.zeros(5), "4 keypoints, 4 descriptors and 5 scores"),
        ("scales", np.zeros(2), "4 keypoints, 4 descriptors, 4 scores and 2 scales"),
        ("keypoints", np.zeros((0, 2)), "0 keypoints, 4 descriptors and 4 scores"),
    ],
)
def test_datasets_that_do_not_fit_together_are_counted(path, dataset, value, expected):
    write_as_hloc(path, **{dataset: value})
    with pytest.raises(StorageError) as error:
        features_h5.read_features(path, NAME)
    assert str(error.value) == f"{path}: {NAME} has {expected}; extract it again."


@pytest.mark.parametrize(
    "keypoints", [np.zeros(4), np.zeros((4, 1)), np.zeros((4, 2, 1)), np.ones(())]
)
def test_keypoints_that_are_not_x_and_y_are_refused(path, keypoints):
    write_as_hloc(path, keypoints=keypoints)
    with pytest.raises(StorageError, match=r"keypoints of .* are of shape \(.*extract it again"):
        features_h5.read_features(path, NAME)


def test_an_image_that_is_not_there_is_named(path):
    write_features(path, {NAME: features_of(2)})
    for name in ("db/1/other.jpg", "db/1", "none"):  # db/1 is a group, but no image
        with pytest.raises(StorageError, match=f"holds no keypoints of {name}; extract it first"):
            features_h5.read_features(path, name)
    with pytest.raises(StorageError, match="holds no global_descriptor of"):
        features_h5.read_global_descriptors(path, [NAME])


def test_names_are_sorted_and_those_of_images_alone(path):
    names = ["query/b.jpg", "db/2/a.png", "db/10/a.png", "Ä.jpg"]
    write_features(path, {name: features_of(2) for name in names})
    assert features_h5.extracted_names(path) == sorted(names)


def test_global_descriptors_alone_have_names_too(path):
    with h5py.File(path, "w") as file:
        for k, name in enumerate(("a/1.jpg", "b.jpg")):
            file[f"{name}/global_descriptor"] = np.full(4, k, np.float16)
    assert features_h5.extracted_names(path) == ["a/1.jpg", "b.jpg"]
    found = features_h5.read_global_descriptors(path, ["b.jpg", "a/1.jpg"])
    assert found.dtype == np.float32
    assert found.tolist() == [[1.0] * 4, [0.0] * 4]


def test_the_configuration_and_failures_come_back(path):
    with Staged(path, {"scales": (0.5, 1.0), "max": None}, "keypoints") as staged:
        staged.failures[NAME] = "too small"
    assert features_h5.read_configuration(path) == {"scales": [0.5, 1.0], "max": None}
    assert features_h5.read_failures(path) == {NAME: "too small"}


@pytest.mark.parametrize(
    "read",
    [
        features_h5.extracted_names,
        features_h5.read_configuration,
        features_h5.read_failures,
        lambda path: features_h5.read_features(path, NAME),
        lambda path: features_h5.read_matches(path, "a", "b"),
    ],
)
def test_a_file_that_is_missing_or_no_hdf5_is_named(path, read):
    with pytest.raises(StorageError, match=r"features\.h5: there is no such file"):
        read(path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(StorageError, match=r"features\.h5: is damaged or not HDF5; delete it"):
        read(path)


# Matches


def test_matches_come_back_in_either_order(path):
    matches = matches_of((0, 3), (2, 0), (4, 1))
    write_matches(path, {("db/a.jpg", "query/b.jpg"): (matches, 6)})
    found = features_h5.read_matches(path, "db/a.jpg", "query/b.jpg")
    assert torch.equal(found.pairs, matches.pairs)
    assert torch.allclose(found.scores, matches.scores, atol=1e-3)
    back = features_h5.read_matches(path, "query/b.jpg", "db/a.jpg")
    assert torch.equal(back.pairs, matches.pairs.flip(1))
    assert torch.equal(back.scores, found.scores)


@pytest.mark.parametrize("count", [0, 5])
def test_no_matches_come_back_as_none(path, count):
    write_matches(path, {("a", "b"): (matches_of(), count)})
    found = features_h5.read_matches(path, "a", "b")
    assert found.pairs.shape == (0, 2)
    assert found.pairs.dtype == torch.int64
    assert found.scores.shape == (0,)


def test_the_matches_file_has_hlocs_form(path):
    write_matches(path, {("db/a.jpg", "query/b.jpg"): (matches_of((0, 3), (2, 1)), 4)})
    with h5py.File(path, "r") as file:
        group = file["db-a.jpg/query-b.jpg"]
        assert group["matches0"][()].tolist() == [3, -1, 1, -1]
        assert group["matching_scores0"][()].tolist() == [0.5, 0, 1, 0]
    with features_h5.open_h5(path) as file:
        assert list(file) == ["db-a.jpg"]
        assert list(file["db-a.jpg"]) == ["query-b.jpg"]


def test_indices_beyond_int16_do_not_wrap(path):
    write_matches(path, {("a", "b"): (matches_of((0, 32768), (40_000, 70_000)), 40_001)})
    with h5py.File(path, "r") as file:
        assert file["a/b/matches0"].dtype == np.int32
    found = features_h5.read_matches(path, "a", "b")
    assert found.pairs.tolist() == [[0, 32768], [40_000, 70_000]]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("db-a.jpg/query-b.jpg", [[0, 3], [2, 1]]),
        ("query-b.jpg/db-a.jpg", [[3, 0], [1, 2]]),
        ("db-a.jpg_query-b.jpg", [[0, 3], [2, 1]]),
        ("query-b.jpg_db-a.jpg", [[3, 0], [1, 2]]),
    ],
)
def test_hlocs_matches_are_read_in_either_order_and_with_either_separator(path, key, expected):
    with h5py.File(path, "w") as file:
        file[f"{key}/matches0"] = np.array([3, -1, 1], np.int16)
        file[f"{key}/matching_scores0"] = np.array([0.25, 0, 0.75], np.float16)
    found = features_h5.read_matches(path, "db/a.jpg", "query/b.jpg")
    assert found.pairs.dtype == torch.int64
    assert found.pairs.tolist() == expected
    assert found.scores.tolist() == [0.25, 0.75]


def test_the_order_asked_for_wins_over_the_reversed_one(path):
    write_matches(path, {("a", "b"): (matches_of((0, 1)), 2), ("b", "a"): (matches_of((0, 5)), 2)})
    assert features_h5.read_matches(path, "a", "b").pairs.tolist() == [[0, 1]]
    assert features_h5.read_matches(path, "b", "a").pairs.tolist() == [[0, 5]]


def test_a_pair_that_is_not_there_is_named(path):
    write_matches(path, {("a", "b"): (matches_of(), 2)})
    with pytest.raises(StorageError) as error:
        features_h5.read_matches(path, "a", "c")
    assert str(error.value) == f"{path}: holds no matches of a and c; match that pair first."


@pytest.mark.parametrize("scores", [None, np.zeros(2)])
def test_matches_without_a_score_each_are_refused(path, scores):
    with h5py.File(path, "w") as file:
        file["a/b/matches0"] = np.array([3, -1, 1], np.int16)
        if scores is not None:
            file["a/b/matching_scores0"] = scores
    with pytest.raises(
        StorageError, match=r"features\.h5: a/b has 3 matches0 and . matching_scores0"
    ):
        features_h5.read_matches(path, "a", "b")


def test_the_attributes_are_plain_json(path):
    write_features(path, {}, feature="d2net")
    with h5py.File(path, "r") as file:
        assert json.loads(file.attrs["configuration"]) == {"feature": "d2net"}
