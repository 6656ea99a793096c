"""Tracks join what verified matches join, and never two keypoints of one image."""

import numpy as np

from d2_hloc.matching.tracks import PairMatches, build_tracks


def matches(*pairs, scores=None):
    count = len(pairs)
    values = np.array(scores if scores else [0.9] * count)
    return PairMatches(pairs=np.array(pairs).reshape(count, 2), scores=values)


def as_sets(tracks):
    return sorted(
        sorted((tracks.names[i], int(k)) for i, k in zip(images, keypoints, strict=True))
        for images, keypoints in zip(tracks.images, tracks.keypoints, strict=True)
    )


def test_joins_matches_across_images():
    counts = {"a": 3, "b": 4, "c": 2}
    found = build_tracks(counts, {("a", "b"): matches((0, 3), (2, 1)), ("b", "c"): matches((3, 1))})
    assert as_sets(found) == [[("a", 0), ("b", 3), ("c", 1)], [("a", 2), ("b", 1)]]


def test_a_weaker_match_never_brings_an_image_twice():
    given = {
        ("a", "b"): matches((0, 0), scores=[0.99]),
        ("b", "c"): matches((0, 0), scores=[0.95]),
        ("a", "c"): matches((1, 0), scores=[0.90]),
    }
    found = build_tracks({"a": 2, "b": 1, "c": 1}, given)
    assert as_sets(found) == [[("a", 0), ("b", 0), ("c", 0)]]


def test_the_reference_has_most_matches():
    given = {("a", "b"): matches((0, 0)), ("b", "c"): matches((0, 0)), ("b", "d"): matches((0, 0))}
    found = build_tracks({"a": 1, "b": 1, "c": 1, "d": 1}, given)
    assert found.names[found.images[0][0]] == "b"
    assert len(found) == 1


def test_of_equals_the_most_similar_is_the_reference():
    given = {
        ("a", "b"): matches((0, 0), scores=[0.8]),
        ("b", "c"): matches((0, 0), scores=[0.9]),
        ("a", "c"): matches((0, 0), scores=[0.95]),
    }
    found = build_tracks({"a": 1, "b": 1, "c": 1}, given)
    assert found.names[found.images[0][0]] == "c"


def test_no_matches_no_tracks():
    assert len(build_tracks({"a": 2, "b": 0}, {})) == 0
