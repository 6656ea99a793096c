"""The matcher's truth and its loss, by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from random_tensors import random_normal
from torch.testing import assert_close

from d2_hloc.matching.lightglue import Assignment
from d2_hloc.training.matcher.examples import Example, stacked
from d2_hloc.training.matcher.loss import assignment_loss, measure
from d2_hloc.training.matcher.truth import NOWHERE, TruthOptions, find_truth

pytestmark = pytest.mark.usefixtures("on_device")


def test_partners_are_each_others_nearest_and_near_in_both_images():
    xy0 = torch.tensor([[0.0, 0.0], [50.0, 0.0], [100.0, 0.0], [150.0, 0.0]])
    xy1 = torch.tensor([[101.0, 0.0], [3.0, 0.0], [56.0, 0.0]])
    found = find_truth(xy0, xy1, xy0, xy1, TruthOptions())
    assert found.partner0.tolist() == [1, -1, 0, -1]
    assert found.alone0.tolist() == [False, False, False, True]  # the second is neither
    assert found.alone1.tolist() == [False, False, False]


def test_what_is_not_known_is_neither_partner_nor_alone():
    xy = torch.tensor([[0.0, 0.0], [50.0, 0.0], [90.0, 0.0]])
    unknown = xy.clone()
    unknown[0] = torch.nan
    unknown[1] = NOWHERE
    found = find_truth(xy, xy + 200, unknown, xy + 100, TruthOptions())
    assert found.partner0.tolist() == [-1, -1, -1]
    assert found.alone0.tolist() == [False, True, True]


def test_no_features_have_no_partners():
    none, some = torch.empty(0, 2), torch.ones(3, 2)
    found = find_truth(some, none, some, none, TruthOptions())
    assert found.partner0.tolist() == [-1, -1, -1]
    assert len(find_truth(none, some, none, some, TruthOptions()).partner0) == 0
    with pytest.raises(ValueError, match=r"partner 9 must be at most alone 8\.0"):
        TruthOptions(partner=9)


def example_of(partner0, alone0, alone1):
    n0, n1 = len(partner0), len(alone1)
    return stacked(
        [
            Example(
                positions0=torch.zeros(n0, 2),
                positions1=torch.zeros(n1, 2),
                descriptors0=torch.zeros(n0, 4, dtype=torch.int8),
                descriptors1=torch.zeros(n1, 4, dtype=torch.int8),
                partner0=torch.tensor(partner0),
                alone0=torch.tensor(alone0),
                alone1=torch.tensor(alone1),
            )
        ]
    )


def assignment(n0, n1):
    return Assignment(
        similarity=random_normal(1, n0, n1, seed=0),
        matchable0=random_normal(1, n0, seed=1),
        matchable1=random_normal(1, n1, seed=2),
    )


def test_the_loss_is_the_negative_log_likelihood():
    found = assignment(3, 2)
    truth = example_of([1, -1, -1], [False, True, False], [False, False])
    loss = assignment_loss(found, truth)
    assert_close(loss.partners, -found.log_scores()[0, 0, 1])
    assert_close(loss.alone, -F.logsigmoid(-found.matchable0[0, 1]) / 2)
    assert_close(loss.total, loss.partners + loss.alone)


def test_without_any_truth_the_loss_is_zero():
    found = assignment(2, 2)
    truth = example_of([-1, -1], [False, False], [False, False])
    assert float(assignment_loss(found, truth).total) == 0


def test_measures_count_what_is_known():
    scores = torch.full((1, 4, 4), -9.0)
    for i, j in ((0, 0), (1, 2), (2, 1), (3, 3)):
        scores[0, i, j] = math.log(0.9)
    truth = example_of([0, 1, -1, -1], [False, False, True, False], [False] * 4)
    # right; wrong; wrong, as it is alone; not known
    assert measure(scores, truth, 0.1) == [(1 / 3, 1 / 2)]
