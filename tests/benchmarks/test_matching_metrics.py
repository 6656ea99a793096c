"""Measures of matches and of the geometry behind them, on planted answers."""

import numpy as np
import pytest

from d2_hloc.core.homography_metrics import (
    corner_error,
    matching_accuracy,
    matching_score,
    nearest_distances,
    repeatability,
    shared_view,
    transfer_errors,
)
from d2_hloc.core.pose_metrics import direction_error, error_auc

IDENTITY = np.eye(3)
SHIFT = np.array([[1.0, 0, 10], [0, 1, -5], [0, 0, 1]])
# The horizon is the line x = 200 of image 0.
TILT = np.array([[1.0, 0, 0], [0, 1, 0], [-0.005, 0, 1]])
SIZE = (100, 80)


def grid(count=40, seed=0):
    """Points well inside of SIZE, apart from each other."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(80)[:count]
    return np.stack([cells % 10, cells // 10], axis=1) * [9.0, 9.0] + [5.0, 5.0]


def moved(xy, homography):
    """Points under a homography, one by one."""
    found = [homography @ [x, y, 1] for x, y in xy]
    return np.array([[p[0] / p[2], p[1] / p[2]] for p in found])


@pytest.mark.parametrize("homography", [IDENTITY, SHIFT, TILT, 7 * TILT, -TILT])
def test_transfer_errors_are_the_planted_displacements(homography):
    xy0 = grid()
    offsets = np.random.default_rng(1).normal(0, 3, xy0.shape)
    errors = transfer_errors(xy0, moved(xy0, homography) + offsets, homography)
    assert np.allclose(errors, np.hypot(*offsets.T))


def test_what_lies_behind_the_horizon_has_an_infinite_error():
    xy0 = np.array([[199.0, 0], [200, 0], [201, 0]])
    assert np.isfinite(transfer_errors(xy0, xy0, TILT)).tolist() == [True, False, False]


def test_matching_accuracy_counts_errors_up_to_and_at_the_threshold():
    errors = np.array([0.0, 1.0, 1.5, 3.0, np.inf])
    assert matching_accuracy(errors, [1, 2, 3]) == [0.4, 0.6, 0.8]


def test_no_match_has_the_accuracy_zero():
    assert matching_accuracy(np.empty(0), [1, 10]) == [0.0, 0.0]


def test_nearest_distances_are_those_of_brute_force():
    xy, others = grid(30), grid(20, seed=5) + 0.3
    expected = [min(np.hypot(*(p - q)) for q in others) for p in xy]
    assert np.allclose(nearest_distances(xy, others), expected)
    assert nearest_distances(xy, np.empty((0, 2))).tolist() == [np.inf] * 30
    assert nearest_distances(np.empty((0, 2)), others).shape == (0,)


def test_shared_view_is_what_the_homography_keeps_in_the_other_image():
    xy0, xy1 = np.array([[0.0, 4.9], [0, 5], [89, 40], [89.1, 40]]), np.array([[9.9, 0], [10, 0]])
    seen0, seen1 = shared_view(xy0, xy1, SHIFT, SIZE, SIZE)
    assert seen0.tolist() == [False, True, True, False]
    assert seen1.tolist() == [False, True]


@pytest.mark.parametrize("homography", [IDENTITY, SHIFT, TILT, -2 * TILT])
def test_repeatability_is_one_where_all_in_view_is_found_again(homography):
    xy0 = grid()
    xy1 = moved(xy0, homography)
    xy1 = xy1[((xy1 >= 0) & (xy1 <= [199, 159])).all(axis=1)]  # as a detector would
    assert len(xy1) > 20
    assert repeatability(xy0, xy1, homography, SIZE, (200, 160), threshold=1e-6) == 1.0
    assert repeatability(xy0, xy1[::2], homography, SIZE, (200, 160), threshold=1e-6) < 0.7


def test_repeatability_counts_both_images():
    xy0 = grid(30)
    xy1 = np.concatenate(
        [xy0[:20] + np.array([0, 1.0]), [[97.0, 2.0]] * 5]
    )  # 10 of xy0 and 5 are alone
    assert repeatability(xy0, xy1, IDENTITY, SIZE, SIZE, threshold=2) == pytest.approx(40 / 55)
    assert repeatability(xy0, xy1, IDENTITY, SIZE, SIZE, threshold=0.5) == 0.0


def test_repeatability_and_matching_score_of_nothing_in_view_are_zero():
    far = np.array([[1.0, 0, 1000], [0, 1, 0], [0, 0, 1]])
    for xy0, xy1, homography in ((grid(), grid(), far), (np.empty((0, 2)),) * 2 + (IDENTITY,)):
        assert repeatability(xy0, xy1, homography, SIZE, SIZE) == 0.0
        assert matching_score(np.array([0.0]), xy0, xy1, homography, SIZE, SIZE) == 0.0


def test_matching_score_is_the_share_of_features_in_view():
    xy0, xy1 = grid(40), grid(20)
    outside = np.array([[500.0, 500.0]] * 10)
    errors = np.array([0.1] * 10 + [50.0] * 5)
    score = matching_score(errors, np.concatenate([xy0, outside]), xy1, IDENTITY, SIZE, SIZE)
    assert score == pytest.approx((10 / 40 + 10 / 20) / 2)


def test_corner_error_is_the_mean_displacement_of_the_corners():
    assert corner_error(SHIFT, SHIFT, SIZE) == 0
    assert corner_error(-3 * SHIFT, SHIFT, SIZE) == pytest.approx(0)
    other = SHIFT.copy()
    other[:2, 2] += [3, 4]
    assert corner_error(other, SHIFT, SIZE) == pytest.approx(5)
    assert corner_error(np.diag([2.0, 2, 1]), IDENTITY, (4, 1)) == pytest.approx(3 / 2)


def test_corner_error_is_infinite_where_a_corner_is_behind_the_horizon():
    assert corner_error(TILT, IDENTITY, (300, 80)) == np.inf
    assert corner_error(TILT, TILT, (300, 80)) == np.inf


def test_auc_of_errors_is_the_area_under_their_recall():
    # Recall rises to 1/2 at 2, stays on its way to 1 at 4, in straight lines.
    assert error_auc([4.0, 2.0], [2, 4]) == pytest.approx([0.25, (0.5 + 1.5) / 4])
    assert error_auc([0.0, 0.0, 0.0], [1, 5]) == [1.0, 1.0]
    assert error_auc([np.inf, 0.0], [5]) == pytest.approx([0.5])


def test_auc_keeps_the_last_recall_up_to_the_threshold():
    # (0, 0) -> (1, 1/2), then level: the second error is beyond the threshold.
    assert error_auc([1.0, 100.0], [5]) == pytest.approx([(0.25 + 4 * 0.5) / 5])


def test_auc_of_no_error_is_zero():
    assert error_auc([], [1, 5]) == [0.0, 0.0]
    assert error_auc([np.inf, np.inf], [1]) == [0.0]


def test_auc_equals_fine_integration():
    errors = np.random.default_rng(3).gamma(2, 4, 50)
    x = np.linspace(0, 10, 200_001)
    ordered = np.concatenate([[0], np.sort(errors)])
    within = ordered <= 10
    known = np.append(ordered[within], 10.0)
    recalls = np.append(np.arange(51)[within], within.sum() - 1) / 50
    expected = np.interp(x, known, recalls).mean()
    assert error_auc(errors.tolist(), [10])[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 1.0, 45.0, 90.0])
def test_the_direction_error_knows_neither_length_nor_sign(degrees):
    angle = np.radians(degrees)
    turned = np.array([np.cos(angle), np.sin(angle), 0])
    for scale in (1.0, -3.0, 1e-3):
        error = direction_error(np.array([5.0, 0, 0]), scale * turned)
        assert error == pytest.approx(degrees, abs=1e-9)


def test_a_translation_of_length_zero_is_refused():
    with pytest.raises(ValueError, match="length zero has no direction"):
        direction_error(np.zeros(3), np.ones(3))
