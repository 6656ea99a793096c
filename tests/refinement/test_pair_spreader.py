"""Refined matches of a pair that agree, and those around them, with a search that knows."""

from pathlib import Path

import numpy as np
import pytest
from synthetic import write_features

from d2_hloc.refinement.matches import PairRefiner
from d2_hloc.refinement.options import RefinementOptions, SpreadingOptions
from d2_hloc.refinement.pair_spreader import PairSpreader

REFINEMENT = RefinementOptions(enabled=True)
OPTIONS = SpreadingOptions(enabled=True, reach=120.0)
PAIR = ("a", "b")


def truth(xy0):
    return xy0 @ np.array([[1.1, 0.15], [-0.1, 0.95]]) + [30.0, 10.0]


class Knowing(PairRefiner):
    """Finds the true place within 8 pixels, and elsewhere something near."""

    def __init__(self):
        self.rng = np.random.default_rng(3)

    def by(self, options):
        return self

    def search(self, pair, xy0, xy1, around):
        found = np.linalg.norm(truth(xy0) - xy1, axis=1) < 8
        anything = xy1 + self.rng.uniform(-6, 6, xy1.shape)
        return np.where(found[:, None], truth(xy0), anything), np.ones(len(xy0), bool)


@pytest.fixture
def images(tmp_path: Path):
    """Keypoints of two images, off by 2 pixels, and 80 right and 80 wrong matches of them."""
    rng = np.random.default_rng(0)
    xy0 = rng.uniform(100, 250, (500, 2)).astype(np.float32)
    xy1 = (truth(xy0) + rng.normal(0, 2, xy0.shape)).astype(np.float32)
    write_features(tmp_path / "features.h5", {"a": xy0, "b": xy1})
    index1 = np.concatenate([np.arange(80), rng.permutation(np.arange(80, 160))])
    return tmp_path / "features.h5", xy0.astype(float), xy1.astype(float)[index1]


def test_wrong_matches_leave_and_right_ones_spread(images):
    features, xy0, xy1 = images
    spreader = PairSpreader(OPTIONS, REFINEMENT, Knowing(), features)
    found0, found1 = spreader(PAIR, xy0[:160], xy1)
    errors = np.linalg.norm(truth(found0) - found1, axis=1)
    assert len(found0) > 300
    assert (errors < 1).mean() > 0.97
    assert len(np.unique(found0, axis=0)) == len(found0)


def test_more_support_leaves_fewer(images):
    features, xy0, xy1 = images
    counts = []
    for support in (5.0, 10.0, 1e6):
        options = SpreadingOptions(enabled=True, support=support, steps=1)
        found0, _ = PairSpreader(options, REFINEMENT, Knowing(), features)(PAIR, xy0[:160], xy1)
        counts.append(len(found0))
    assert counts[0] > counts[1] > counts[2] == 0


def test_no_matches_are_none(images):
    features, _, _ = images
    none = np.empty((0, 2))
    found = PairSpreader(OPTIONS, REFINEMENT, Knowing(), features)(PAIR, none, none)
    assert [len(f) for f in found] == [0, 0]
