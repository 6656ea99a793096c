"""Scores of poses: means of those that there are, shares of all."""

import numpy as np
import pytest

from d2_hloc.sfm.pose_errors import PoseScores


def test_means_are_of_the_images_that_have_a_pose_and_shares_of_all():
    errors = {"a": (0.1, 1.0), "b": (0.3, 4.0), "c": (0.5, 1.0), "d": (np.inf, np.inf)}
    scores = PoseScores(errors=errors)
    assert scores.mean == pytest.approx((0.3, 2.0))
    assert scores.median == pytest.approx((0.3, 1.0))
    assert scores.recall == (0.25, 0.75, 0.75)
    assert list(scores.finite) == ["a", "b", "c"]
    assert scores.to_dict() == {
        "poses": 3,
        "of": 4,
        "mean_position_error_m": pytest.approx(0.3),
        "mean_rotation_error_deg": pytest.approx(2.0),
        "median_position_error_m": pytest.approx(0.3),
        "median_rotation_error_deg": pytest.approx(1.0),
        "recall_0.25m_2deg": 0.25,
        "recall_0.5m_5deg": 0.75,
        "recall_5m_10deg": 0.75,
    }


def test_without_a_pose_there_is_no_mean():
    scores = PoseScores(errors={"a": (np.inf, np.inf)}, thresholds=((1.0, 1.0),))
    assert scores.mean is None
    assert scores.to_dict() == {"poses": 0, "of": 1, "recall_1m_1deg": 0}
