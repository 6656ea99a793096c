"""Matches files: every pair once, both orders readable, unknown images named."""

import pytest
import torch

from d2_hloc import pair_matching, storage
from d2_hloc.matching import MatchingOptions
from d2_hloc.pair_matching import descriptor_cache, match
from d2_hloc.staging import ConfigurationChanged, Staged
from d2_hloc.structs import Features

OPTIONS = MatchingOptions()


def write(path, orders, tag="a"):
    """Each image has the same four descriptors, in an order of its own."""
    with Staged(path, {"tag": tag}, "keypoints") as staged:
        for name, order in orders.items():
            features = Features(
                keypoints=torch.rand(4, 2),
                scores=torch.ones(4),
                descriptors=torch.eye(4)[order],
                scales=torch.ones(4),
            )
            staged.add(name, storage.features_record(features, (64, 48), 1.0, "float16"))
    return path


@pytest.fixture
def features(tmp_path):
    orders = {"db/a.jpg": [0, 1, 2, 3], "db/b.jpg": [3, 2, 1, 0], "c.jpg": [1, 0, 3, 2]}
    return write(tmp_path / "features.h5", orders)


def test_finds_the_planted_order_in_both_directions(features, tmp_path):
    path = match(OPTIONS, [("db/a.jpg", "db/b.jpg")], features, tmp_path / "matches.h5")
    forward = storage.read_matches(path, "db/a.jpg", "db/b.jpg").pairs.tolist()
    assert forward == [[0, 3], [1, 2], [2, 1], [3, 0]]
    backward = storage.read_matches(path, "db/b.jpg", "db/a.jpg").pairs.tolist()
    assert sorted(backward) == forward


def test_repeated_and_reversed_pairs_are_matched_once(features, tmp_path):
    pairs = [("db/a.jpg", "c.jpg"), ("c.jpg", "db/a.jpg"), ("c.jpg", "c.jpg")]
    path = match(OPTIONS, pairs, features, tmp_path / "matches.h5")
    match(OPTIONS, pairs[1:], features, path)
    with storage.open_h5(path) as file:
        assert list(file) == ["db-a.jpg"]


def test_unknown_images_are_named_and_the_rest_is_done(features, tmp_path):
    pairs = [("db/a.jpg", "gone.jpg"), ("db/a.jpg", "c.jpg")]
    path = match(OPTIONS, pairs, features, tmp_path / "matches.h5")
    expected = {"db/a.jpg gone.jpg": "there are no features of gone.jpg"}
    assert storage.failures(path) == expected
    assert len(storage.read_matches(path, "db/a.jpg", "c.jpg")) == 4


def test_queries_may_be_named_like_images_of_the_model(features, tmp_path):
    queries = write(tmp_path / "q.h5", {"db/a.jpg": [3, 2, 1, 0], "c.jpg": [0, 1, 2, 3]}, tag="q")
    pairs = [("db/a.jpg", "db/a.jpg"), ("db/a.jpg", "c.jpg"), ("c.jpg", "db/a.jpg")]
    path = match(OPTIONS, pairs, queries, tmp_path / "matches.h5", features)
    same = storage.read_matches(path, "db/a.jpg", "db/a.jpg").pairs.tolist()
    assert same == [[0, 3], [1, 2], [2, 1], [3, 0]]
    there = storage.read_matches(path, "db/a.jpg", "c.jpg").pairs.tolist()
    assert there == [[0, 2], [1, 3], [2, 0], [3, 1]]
    assert storage.read_matches(path, "c.jpg", "db/a.jpg").pairs[:, 1].tolist() == [0, 1, 2, 3]


def test_matches_of_other_features_are_not_gone_on_with(features, tmp_path):
    path = match(OPTIONS, [("db/a.jpg", "c.jpg")], features, tmp_path / "matches.h5")
    other = write(tmp_path / "other.h5", {"db/a.jpg": [0, 1, 2, 3]}, tag="b")
    with pytest.raises(ConfigurationChanged, match=r'"tag": "a".*"tag": "b"'):
        match(OPTIONS, [], other, path)


def test_the_cache_stays_within_its_bound_and_reads_once(features, monkeypatch):
    read = []
    original = storage.features_of
    monkeypatch.setattr(
        pair_matching.storage, "features_of", lambda f, n: read.append(n) or original(f, n)
    )
    with storage.open_h5(features) as file:
        nbytes = descriptor_cache(file)["db/a.jpg"].nbytes
        assert nbytes >= 4 * 4 * 4
        read.clear()
        cache = descriptor_cache(file, capacity=2 * nbytes)
        for name in ("db/a.jpg", "db/b.jpg", "db/a.jpg", "c.jpg", "db/a.jpg", "db/b.jpg"):
            assert cache[name].exact.shape == (4, 4)
    assert read == ["db/a.jpg", "db/b.jpg", "c.jpg", "db/b.jpg"]
