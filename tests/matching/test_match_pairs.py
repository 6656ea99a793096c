"""Matches files: every pair once, both orders readable, unknown images named."""

import h5py
import numpy as np
import pytest
import torch

from d2_hloc.core.structs import Features
from d2_hloc.files import features_h5
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.files.shards import Shard
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.matching import match_pairs
from d2_hloc.matching.match_pairs import descriptor_cache, match
from d2_hloc.matching.options import MatchingOptions

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
            staged.add(name, features_h5.features_record(features, (64, 48), 1.0, "float16"))
    return path


@pytest.fixture
def features(tmp_path):
    orders = {"db/a.jpg": [0, 1, 2, 3], "db/b.jpg": [3, 2, 1, 0], "c.jpg": [1, 0, 3, 2]}
    return write(tmp_path / "features.h5", orders)


def test_finds_the_planted_order_in_both_directions(features, tmp_path):
    path = match(OPTIONS, [("db/a.jpg", "db/b.jpg")], features, tmp_path / "matches.h5").path
    forward = features_h5.read_matches(path, "db/a.jpg", "db/b.jpg").pairs.tolist()
    assert forward == [[0, 3], [1, 2], [2, 1], [3, 0]]
    backward = features_h5.read_matches(path, "db/b.jpg", "db/a.jpg").pairs.tolist()
    assert sorted(backward) == forward


def test_repeated_and_reversed_pairs_are_matched_once(features, tmp_path):
    pairs = [("db/a.jpg", "c.jpg"), ("c.jpg", "db/a.jpg"), ("c.jpg", "c.jpg")]
    path = match(OPTIONS, pairs, features, tmp_path / "matches.h5").path
    match(OPTIONS, pairs[1:], features, path)
    with features_h5.open_h5(path) as file:
        assert list(file) == ["db-a.jpg"]


def test_unknown_images_are_named_and_the_rest_is_done(features, tmp_path):
    pairs = [("db/a.jpg", "gone.jpg"), ("db/a.jpg", "c.jpg")]
    path = match(OPTIONS, pairs, features, tmp_path / "matches.h5").path
    expected = {"db/a.jpg gone.jpg": "there are no features of gone.jpg"}
    assert features_h5.read_failures(path) == expected
    assert len(features_h5.read_matches(path, "db/a.jpg", "c.jpg")) == 4


def test_queries_may_be_named_like_images_of_the_model(features, tmp_path):
    queries = write(tmp_path / "q.h5", {"db/a.jpg": [3, 2, 1, 0], "c.jpg": [0, 1, 2, 3]}, tag="q")
    pairs = [("db/a.jpg", "db/a.jpg"), ("db/a.jpg", "c.jpg"), ("c.jpg", "db/a.jpg")]
    path = match(OPTIONS, pairs, queries, tmp_path / "matches.h5", features).path
    same = features_h5.read_matches(path, "db/a.jpg", "db/a.jpg").pairs.tolist()
    assert same == [[0, 3], [1, 2], [2, 1], [3, 0]]
    there = features_h5.read_matches(path, "db/a.jpg", "c.jpg").pairs.tolist()
    assert there == [[0, 2], [1, 3], [2, 0], [3, 1]]
    assert features_h5.read_matches(path, "c.jpg", "db/a.jpg").pairs[:, 1].tolist() == [0, 1, 2, 3]


def test_matches_of_other_features_are_not_gone_on_with(features, tmp_path):
    path = match(OPTIONS, [("db/a.jpg", "c.jpg")], features, tmp_path / "matches.h5").path
    other = write(tmp_path / "other.h5", {"db/a.jpg": [0, 1, 2, 3]}, tag="b")
    with pytest.raises(ConfigurationChanged, match=r'"tag": "a".*"tag": "b"'):
        match(OPTIONS, [], other, path)


def test_matches_of_features_that_changed_are_made_again(features, tmp_path, caplog):
    pairs = [("db/a.jpg", "db/b.jpg"), ("c.jpg", "db/a.jpg"), ("c.jpg", "db/b.jpg")]
    path = match(OPTIONS, pairs, features, tmp_path / "matches.h5").path
    match(OPTIONS, [p[::-1] for p in pairs], features, path)
    assert "other features" not in caplog.text
    before = features_h5.read_matches(path, *pairs[0])
    with GuardedFile(features) as file:
        kept = features_h5.image_digests(file, ["db/a.jpg", "db/b.jpg"])
    with h5py.File(features, "a") as file:
        file["c.jpg/keypoints"][...] += 1
        file["c.jpg/descriptors"][...] = np.eye(4)[:, [3, 0, 2, 1]]
    match(OPTIONS, pairs, features, path)
    assert "2 pairs are matched anew" in caplog.text
    assert features_h5.read_matches(path, *pairs[0]).pairs.tolist() == before.pairs.tolist()
    fresh = match(OPTIONS, pairs, features, tmp_path / "fresh.h5").path
    for pair in pairs:
        found, expected = (features_h5.read_matches(p, *pair) for p in (path, fresh))
        assert found.pairs.tolist() == expected.pairs.tolist()
    with GuardedFile(features) as file:
        assert features_h5.image_digests(file, kept) == kept


def test_a_shard_of_a_file_of_other_features_is_refused(features, tmp_path):
    pairs = [("db/a.jpg", "db/b.jpg"), ("c.jpg", "db/a.jpg")]
    path = match(OPTIONS, pairs[:1], features, tmp_path / "matches.h5").path
    match(OPTIONS, pairs, features, path, shard=Shard(1, 1))
    with h5py.File(features, "a") as file:
        file["db/a.jpg/keypoints"][...] += 1
    with pytest.raises(
        features_h5.StorageError, match=r"matches\.h5: was made from other features"
    ):
        match(OPTIONS, pairs, features, path, shard=Shard(1, 1))


def test_the_cache_stays_within_its_bound_and_reads_once(features, monkeypatch):
    read = []
    original = features_h5.features_of
    monkeypatch.setattr(
        match_pairs.features_h5,
        "features_of",
        lambda f, n, **more: read.append(n) or original(f, n, **more),
    )
    with features_h5.open_h5(features) as file:
        nbytes = descriptor_cache(file)["db/a.jpg"].nbytes
        assert nbytes >= 4 * 4 * 4
        read.clear()
        cache = descriptor_cache(file, capacity=2 * nbytes)
        for name in ("db/a.jpg", "db/b.jpg", "db/a.jpg", "c.jpg", "db/a.jpg", "db/b.jpg"):
            assert cache[name].parts[0].prepared.exact.shape == (4, 4)
    assert read == ["db/a.jpg", "db/b.jpg", "c.jpg", "db/b.jpg"]
