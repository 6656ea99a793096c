"""Guided matching and local consistency on planted matches."""

import numpy as np

from d2_hloc.matching.consistency import local_consistency
from d2_hloc.matching.guided import (
    epipolar_distances,
    guided_matches,
    mutual_best,
    transfer_distances,
)
from d2_hloc.matching.options import GuidedOptions

HOMOGRAPHY = np.array([[1.1, 0.1, 20], [-0.05, 0.9, 10], [1e-5, 0, 1]])
SIDEWAYS = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # both cameras look the same way


def moved(xy):
    points = np.concatenate([xy, np.ones((len(xy), 1))], axis=1) @ HOMOGRAPHY.T
    return points[:, :2] / points[:, 2:]


def places(count, seed=0):
    return np.random.default_rng(seed).uniform([0, 0], [1000, 700], (count, 2))


def test_right_matches_are_supported_and_random_ones_are_not():
    right, wrong0, wrong1 = places(100), places(400, 1), places(400, 2)
    xy0, xy1 = np.concatenate([right, wrong0]), np.concatenate([moved(right), wrong1])
    support = local_consistency(xy0, xy1, 700e3).support
    assert (support[:100] > 15).mean() > 0.8
    assert (support[100:] > 15).mean() < 0.25


def test_similarity_is_that_of_the_images():
    xy0 = places(50)
    turn = 1.5 * np.exp(0.3j)
    there = (xy0[:, 0] + 1j * xy0[:, 1]) * turn
    xy1 = np.stack([there.real, there.imag], axis=1)
    assert np.allclose(local_consistency(xy0, xy1, 700e3).similarities, turn, atol=1e-3)


def test_few_and_equal_matches_have_no_support():
    for count in range(3):
        xy = places(count)
        assert local_consistency(xy, xy, 700e3).support.tolist() == [0] * count
    same = np.full((40, 2), 7.0)
    assert not local_consistency(same, same, 700e3).support.any()


def test_distances():
    xy0, xy1 = np.array([[3.0, 10.0]]), np.array([[50.0, 14.0]])
    assert np.allclose(epipolar_distances(SIDEWAYS, xy0, xy1), 4 / np.sqrt(2))
    assert np.allclose(transfer_distances(np.eye(3), xy0, xy0 + np.array([3, 4])), 5)


def test_a_match_that_something_far_away_hides_comes_back():
    xy0 = places(60)
    xy1 = xy0 + np.array([30, 0])
    rng = np.random.default_rng(5)
    descriptors0 = rng.normal(size=(60, 32))
    descriptors0 /= np.linalg.norm(descriptors0, axis=1, keepdims=True)
    descriptors1 = descriptors0.copy()
    descriptors1[50] = (descriptors1[50] + 0.5 * descriptors1[3]) / 1.1  # less alike than its rival
    far = int(np.argmax(np.abs(xy1[:50, 1] - xy1[50, 1])))
    descriptors1[far] = descriptors0[50]
    verified = np.stack([np.arange(50)] * 2, axis=1)
    found, cosines = guided_matches(
        GuidedOptions(),
        (xy0, xy1),
        (descriptors0, descriptors1),
        verified,
        ("F", SIDEWAYS),
        max_error=2.0,
    )
    assert [50, 50] in found.tolist()
    assert len(found) == len(cosines)


def test_nothing_leads_nowhere():
    empty = np.empty((0, 2))
    found, cosines = guided_matches(
        GuidedOptions(),
        (empty, places(5)),
        (np.empty((0, 4)), np.ones((5, 4)) / 2),
        np.empty((0, 2), int),
        ("H", np.eye(3)),
        max_error=2.0,
    )
    assert found.shape == (0, 2)
    assert cosines.shape == (0,)


def test_mutual_best_asks_the_ratio_of_both_and_no_tie():
    cells = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 3])
    cosines = np.array([0.9, 0.1, 0.8, 0.7, 0.7])
    assert mutual_best(cells, cosines)[0].tolist() == [[0, 0], [1, 1]]
    assert mutual_best(cells, cosines, 0.3)[0].tolist() == []
