"""Source views and depth ranges from points: a good angle counts, outliers do not."""

import numpy as np
import pytest

from d2_hloc.mvs.sources import choose_sources, depth_range, shared_points

POINTS = np.random.default_rng(0).normal([0, 0, 10], 0.5, (60, 3))
ALL = np.arange(60)


def row_of_cameras(*degrees):
    """Places that see (0, 0, 10) under these angles, seen from (0, 0, 0)."""
    angles = np.radians(degrees)
    return np.stack([10 * np.sin(angles), 0 * angles, 10 - 10 * np.cos(angles)], axis=1)


def test_a_good_angle_comes_first():
    centres = row_of_cameras(0, 0.3, 10, 60, 20)
    assert choose_sources(POINTS, [ALL] * 5, centres, 4)[0] == [2, 4, 1, 3]


def test_shared_points_count():
    centres = row_of_cameras(0, 10, -10, 10)
    seen = [ALL, ALL[:50], ALL[:20], ALL[60:]]
    assert choose_sources(POINTS, seen, centres, 4) == [[1, 2], [0, 2], [0, 1], []]
    assert choose_sources(POINTS, seen, centres, 1)[0] == [1]
    assert shared_points(seen, 60)[0].tolist() == [60, 50, 20, 0]


def test_no_points_give_no_sources():
    assert choose_sources(POINTS[:0], [ALL[:0]] * 2, row_of_cameras(0, 10), 3) == [[], []]


def test_a_range_holds_the_points_but_not_what_is_far_off():
    depths = np.append(np.linspace(4, 6, 1000), [300, -5])
    near, far = depth_range(depths)
    assert (near, far) == (pytest.approx(4 * 0.75, 0.02), pytest.approx(6 * 1.25, 0.02))
    assert depth_range(np.array([-1.0])) is None
    near, far = depth_range(np.array([5.0]))
    assert near < 5 < far
