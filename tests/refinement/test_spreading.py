"""Spreading of matches around refined ones, with a search that knows the truth."""

import numpy as np
import pytest

from d2_hloc.refinement.options import SpreadingOptions
from d2_hloc.refinement.spreading import PlacedMatches, spread_matches

OPTIONS = SpreadingOptions(reach=120.0)
AFFINITY = np.array([[1.3, 0.2], [-0.15, 0.9]])
WINDOW = 6.0  # pixels that the search reaches


def truth(xy0):
    return xy0 @ AFFINITY.T + [20.0, 40.0]


def search(xy0, xy1, around):
    found = np.linalg.norm(truth(xy0) - xy1, axis=1) < WINDOW
    return np.where(found[:, None], truth(xy0), xy1), found


def everything(xy0, xy1):
    return np.ones(len(xy0), bool)


def images(*, off=4.0, count=400, known=40, seed=0):
    """Keypoints of two images, off by some pixels in the second, and a few matches refined."""
    rng = np.random.default_rng(seed)
    xy0 = rng.uniform(50, 450, (count, 2))
    angles = rng.uniform(0, 2 * np.pi, count)
    xy1 = truth(xy0) + off * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pairs = np.stack([np.arange(known)] * 2, axis=1)
    matched = PlacedMatches(pairs=pairs, xy0=xy0[:known], xy1=truth(xy0[:known]))
    return (xy0, xy1), matched


def test_most_keypoints_between_are_found_at_their_places():
    keypoints, known = images()
    found = spread_matches(OPTIONS, keypoints, known, search, everything)
    assert len(found) > 250
    assert np.allclose(found.xy1, truth(found.xy0))
    assert np.allclose(found.xy0, keypoints[0][found.pairs[:, 0]])
    assert (found.pairs[:, 0] == found.pairs[:, 1]).mean() > 0.8


def test_each_keypoint_is_matched_once_and_known_ones_are_left_alone():
    keypoints, known = images(off=9.0)
    found = spread_matches(OPTIONS, keypoints, known, search, everything)
    for side in (0, 1):
        assert len(np.unique(found.pairs[:, side])) == len(found)
        assert not np.isin(found.pairs[:, side], known.pairs[:, side]).any()
    distances = np.linalg.norm(keypoints[1][found.pairs[:, 1]] - found.xy1, axis=1)
    assert distances.max() < OPTIONS.snap


def test_what_the_geometry_does_not_allow_is_left_out():
    keypoints, known = images()

    def left_half(xy0, xy1):
        return xy0[:, 0] < 250

    found = spread_matches(OPTIONS, keypoints, known, search, left_half)
    assert 100 < len(found) < 200
    assert found.xy0[:, 0].max() < 250


def test_nothing_is_expected_where_known_matches_contradict_each_other():
    keypoints, known = images()
    rng = np.random.default_rng(1)
    wrong = PlacedMatches(
        pairs=known.pairs, xy0=known.xy0, xy1=rng.uniform(0, 500, known.xy1.shape)
    )
    assert len(spread_matches(OPTIONS, keypoints, wrong, search, everything)) == 0


@pytest.mark.parametrize("case", ["few known", "none free", "far away"])
def test_nothing_is_found(case):
    keypoints, known = images()
    if case == "few known":
        known = known.of(np.arange(4))
    elif case == "none free":
        keypoints = keypoints[0][: len(known)], keypoints[1][: len(known)]
    else:
        keypoints = keypoints[0] + np.where(np.arange(400)[:, None] < 40, 0, 5000), keypoints[1]
    found = spread_matches(OPTIONS, keypoints, known, search, everything)
    assert found.pairs.shape == found.xy0.shape == found.xy1.shape == (0, 2)


def test_noise_scales_all_lengths():
    keypoints, known = images(off=8.0)
    few = spread_matches(OPTIONS, keypoints, known, search, everything, noise=0.2)
    many = spread_matches(OPTIONS, keypoints, known, search, everything, noise=1.0)
    assert len(few) < 0.2 * len(many)
