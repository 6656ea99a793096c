"""Numbers that would match quietly and wrongly are refused, naming the image."""

import h5py
import numpy as np
import pytest
import torch

from d2_hloc.files import features_h5
from d2_hloc.files.features_h5 import StorageError
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.options import MatchingOptions

GOOD = {
    "keypoints": np.arange(10.0).reshape(5, 2),
    "descriptors": np.eye(8, 5),
    "scores": np.ones(5),
    "scales": np.ones(5),
    "image_size": np.array([64, 48]),
    "global_descriptor": np.ones(3),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features.h5"


def write(path, name="a.jpg", **changes):
    with h5py.File(path, "a") as file:
        for dataset, values in (GOOD | changes).items():
            file[f"{name}/{dataset}"] = values
    return path


def read_all(path, name):
    return features_h5.read_features(path, name), features_h5.read_image_size(path, name)


def spoilt(dataset, value):
    values = GOOD[dataset].astype(float)
    values.flat[3 % values.size] = value
    return values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dataset", ["keypoints", "descriptors", "scores", "scales"])
def test_numbers_that_are_not_finite_are_refused_with_the_image(path, dataset, value):
    write(path, **{dataset: spoilt(dataset, value)})
    with pytest.raises(StorageError, match=rf"features\.h5: a\.jpg: its {dataset} are not all fin"):
        features_h5.read_features(path, "a.jpg")


@pytest.mark.parametrize("dataset", ["keypoints", "scores", "scales", "global_descriptor"])
def test_numbers_too_large_for_single_precision_are_refused(path, dataset):
    write(path, **{dataset: spoilt(dataset, 1e300)})
    with pytest.raises(StorageError, match=rf"a\.jpg: its {dataset} are too large"):
        features_h5.read_features(path, "a.jpg")


@pytest.mark.parametrize("type_", [">f4", ">f2", "<f8", "longdouble", ">i2", "u8", "?"])
def test_descriptors_of_every_type_of_number_are_read(path, type_):
    write(path, descriptors=GOOD["descriptors"].astype(type_))
    found = features_h5.read_features(path, "a.jpg").descriptors
    assert torch.equal(found.float(), torch.eye(5, 8))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"scores": np.ones((5, 1))}, r"its scores are of shape \(5, 1\), not of 1 dimensions"),
        ({"scores": 1.0}, r"its scores are of shape \(\), not of 1 dimensions"),
        ({"descriptors": np.ones(5)}, r"its descriptors are of shape \(5,\), not of 2 dim"),
        ({"keypoints": 1.0}, r"the keypoints of a.jpg are of shape \(\), not N x 2"),
        ({"image_size": np.zeros(2)}, "a.jpg has no size of its image"),
        ({"image_size": np.ones(3)}, "a.jpg has no size of its image"),
    ],
)
def test_arrays_of_another_shape_are_refused(path, changes, text):
    write(path, **changes)
    with pytest.raises(StorageError, match=text):
        read_all(path, "a.jpg")


@pytest.mark.parametrize("dataset", ["keypoints", "descriptors", "scores", "image_size"])
def test_groups_in_the_place_of_numbers_are_refused(path, dataset):
    write(path)
    with h5py.File(path, "a") as file:
        del file["a.jpg"][dataset]
        file["a.jpg"].create_group(dataset)
        file["b.jpg"] = 1.0
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(StorageError, match=r"features\.h5"):
            read_all(path, name)


def test_global_descriptors_are_finite_and_of_one_width(path):
    write(path)
    write(path, "b.jpg", global_descriptor=np.ones(4))
    write(path, "c.jpg", global_descriptor=np.array([1, np.nan, 0]))
    with pytest.raises(StorageError, match=r"of b.jpg have 4 numbers, others 3"):
        features_h5.read_global_descriptors(path, ["a.jpg", "b.jpg"])
    with pytest.raises(StorageError, match=r"c.jpg: its global_descriptor are not all finite"):
        features_h5.read_global_descriptors(path, ["a.jpg", "c.jpg"])


def test_nothing_is_matched_with_what_is_no_number(path, tmp_path):
    write(path)
    write(path, "b.jpg", descriptors=spoilt("descriptors", np.nan))
    with pytest.raises(StorageError, match=r"b\.jpg: its descriptors are not all finite"):
        match(MatchingOptions(), [("a.jpg", "b.jpg")], path, tmp_path / "matches.h5")
    assert not (tmp_path / "matches.h5").exists()


@pytest.mark.parametrize(("dataset", "value"), [("matches0", np.nan), ("matching_scores0", np.inf)])
def test_matches_are_finite_too(tmp_path, dataset, value):
    path, values = (
        tmp_path / "matches.h5",
        {"matches0": np.zeros(3), "matching_scores0": np.ones(3)},
    )
    values[dataset][1] = value
    with h5py.File(path, "w") as file:
        for name, numbers in values.items():
            file[f"a/b/{name}"] = numbers
    with pytest.raises(StorageError, match=rf"a/b: its {dataset} are not all finite"):
        features_h5.read_matches(path, "a", "b")


@pytest.mark.parametrize("name", ["configuration", "failures"])
@pytest.mark.parametrize("text", ["{", "[1]", 5, "[" * 100_000])
def test_attributes_that_are_no_json_are_named(path, name, text):
    with h5py.File(path, "w") as file:
        file.attrs[name] = text
    read = {"configuration": features_h5.read_configuration, "failures": features_h5.read_failures}
    with pytest.raises(StorageError, match=r"features\.h5: .* cannot be read; make it again"):
        read[name](path)
