"""How likely chance is to give so many inliers."""

import numpy as np

from d2_hloc.sfm.two_views.significance import chance_of, log_false_alarms, shuffled


def test_what_random_matches_would_have_is_not_significant():
    assert log_false_alarms(500, 15, 0.02, 5, 10) > -1
    assert log_false_alarms(500, 60, 0.02, 5, 10) < -3
    assert log_false_alarms(20, 15, 0.02, 5, 10) < -5


def test_a_wider_band_needs_more_inliers():
    numbers = [log_false_alarms(200, 30, chance, 5, 10) for chance in (0.01, 0.05, 0.2)]
    assert numbers == sorted(numbers)


def test_a_minimal_sample_tells_nothing():
    assert log_false_alarms(100, 5, 0.01, 5, 10) > 0
    assert log_false_alarms(0, 0, 0.01, 5, 10) > 0


def test_shuffled_pairs_no_match_with_itself():
    for count in (0, 1, 2, 3, 50):
        index0, index1 = shuffled(count)
        assert (index0 != index1).all()
        assert len(index0) % max(1, count) == 0


def test_chance_is_never_nothing():
    assert chance_of(np.full(9, 100.0), 4.0) == 0.1
    assert chance_of(np.empty(0), 4.0) == 1
