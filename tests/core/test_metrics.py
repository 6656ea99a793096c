"""Errors against planted poses and models."""

import numpy as np
import pytest

from d2_hloc.core.pose_metrics import align_similarity, camera_centre, recall, rotation_error


def rotation(axis, degrees):
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    k, a = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.radians(degrees)
    return np.eye(3) + np.sin(a) * k + (1 - np.cos(a)) * k @ k


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 0.01, 5.0, 90.0, 179.9, 180.0])
def test_the_rotation_error_is_the_planted_angle(degrees):
    start = rotation([3, 1, 2], 77)
    turned = start @ rotation([1, -2, 0.5], degrees)
    assert rotation_error(start, turned) == pytest.approx(degrees, rel=1e-6, abs=1e-8)
    assert rotation_error(turned, start) == pytest.approx(degrees, rel=1e-6, abs=1e-8)


def test_the_camera_centre_is_seen_at_the_origin():
    turn, shift = rotation([1, 2, 3], 40), np.array([1.0, -2.0, 5.0])
    assert np.allclose(turn @ camera_centre(turn, shift) + shift, 0)


def test_recall_counts_what_is_within_both_thresholds():
    errors = [(0.1, 1.0), (0.1, 3.0), (0.4, 1.0), (4.0, 9.0), (np.inf, np.inf)]
    assert recall(errors, [(0.25, 2.0), (0.5, 5.0), (5.0, 10.0)]) == [0.2, 0.6, 0.8]


def test_recall_takes_an_error_at_the_threshold_in():
    assert recall([(0.25, 2.0)], [(0.25, 2.0)]) == [1.0]


def test_recall_of_no_query_is_nothing():
    assert recall([], [(0.25, 2.0), (5.0, 10.0)]) == [0.0, 0.0]
    assert recall([(1.0, 1.0)], []) == []


def points(count=30):
    return np.random.default_rng(0).normal(size=(count, 3)) * [1, 2, 5] + [10, 0, -3]


@pytest.mark.parametrize("count", [3, 4, 30])
@pytest.mark.parametrize("scale", [0.01, 1.0, 250.0])
def test_alignment_finds_the_planted_similarity(count, scale):
    turn, shift = rotation([1, 5, -2], 130), np.array([100.0, -7.0, 3.0])
    source = points(count)
    found = align_similarity(source, scale * source @ turn.T + shift)
    assert found[0] == pytest.approx(scale)
    assert np.allclose(found[1], turn)
    assert np.allclose(found[2], shift, atol=1e-6)


def test_alignment_of_flat_and_of_mirrored_points_is_a_rotation():
    flat = points() * [1, 1, 0]
    for source, target in ((flat, flat @ rotation([1, 1, 0], 50).T), (points(), -points())):
        _, turn, _ = align_similarity(source, target)
        assert np.linalg.det(turn) == pytest.approx(1)
        assert np.allclose(turn @ turn.T, np.eye(3))


@pytest.mark.parametrize("mirror", [1, -1])
def test_alignment_leaves_the_least_squares(mirror):
    source = points()
    noise = np.random.default_rng(1).normal(size=(30, 3))
    target = 2 * source @ rotation([0, 1, 0], 20).T * [1, mirror, 1] + noise
    scale, turn, shift = align_similarity(source, target)

    def residual(scale, turn, shift):
        return ((scale * source @ turn.T + shift - target) ** 2).sum()

    best = residual(scale, turn, shift)
    for axis in np.eye(3):
        for sign in (-1, 1):
            assert residual(scale, turn @ rotation(axis, sign * 0.5), shift) > best
            assert residual(scale, turn, shift + sign * 0.01 * axis) > best
    assert residual(scale * 1.01, turn, shift) > best < residual(scale * 0.99, turn, shift)


def test_alignment_of_too_few_or_of_unequally_many_points_is_refused():
    with pytest.raises(ValueError, match="needs three points at least, not 2"):
        align_similarity(points(2), points(2))
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(4, 3\)"):
        align_similarity(points(5), points(4))


@pytest.mark.parametrize("spread", [[0, 0, 0], [1, 0, 0]])
def test_alignment_of_points_on_a_line_or_in_one_place_is_refused(spread):
    source = points() * spread
    with pytest.raises(ValueError, match="on a line"):
        align_similarity(source, points())
