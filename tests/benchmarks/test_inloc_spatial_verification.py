"""Planted homographies among wrong matches are found, and nothing where there is none."""

import numpy as np
import pytest

from d2_hloc.benchmarks.inloc.spatial_verification import (
    SpatialVerificationOptions,
    fit_affine,
    fit_homography,
    verify_spatially,
)
from d2_hloc.core.homography_metrics import transfer

OPTIONS = SpatialVerificationOptions()
HOMOGRAPHIES = [
    np.array([[1.1, 0.05, 20.0], [-0.04, 1.2, -15.0], [1e-4, 5e-5, 1.0]]),
    np.array([[0.8, 0.0, 140.0], [0.02, 0.9, 60.0], [0.0, 1e-4, 1.0]]),
]


def plant(counts, wrong, seed=0, noise=0.5):
    """Matches on each homography, `counts` of them, then wrong ones; and their scales."""
    rng = np.random.default_rng(seed)
    xy0, xy1, scales1 = [], [], []
    for homography, count in zip(HOMOGRAPHIES, counts, strict=False):
        points = rng.uniform(0, 500, (count, 2))
        xy0.append(points)
        xy1.append(transfer(points, homography) + rng.normal(0, noise, (count, 2)))
        scales1.append(np.full(count, homography[0, 0]))
    xy0.append(rng.uniform(0, 500, (wrong, 2)))
    xy1.append(rng.uniform(0, 500, (wrong, 2)))
    scales1.append(rng.uniform(0.5, 2, wrong))
    return *map(np.concatenate, (xy0, xy1)), np.ones(sum(counts) + wrong), np.concatenate(scales1)


def test_matches_on_two_planes_are_kept_and_wrong_ones_dropped():
    found = verify_spatially(OPTIONS, *plant([120, 60], wrong=300))
    right = found < 180
    assert np.isin(np.arange(180), found).mean() > 0.95
    assert (~right).sum() < 0.05 * 300


@pytest.mark.parametrize("count", [0, 3, 9])
def test_too_few_matches_verify_nothing(count):
    assert verify_spatially(OPTIONS, *plant([count], wrong=0)).shape == (0,)


def test_ten_matches_are_enough():
    assert verify_spatially(OPTIONS, *plant([10], wrong=0, noise=0.0)).tolist() == list(range(10))


def test_wrong_matches_alone_verify_nothing():
    assert len(verify_spatially(OPTIONS, *plant([], wrong=100, seed=3))) == 0


def test_matches_at_one_place_do_no_harm():
    same = np.full((40, 2), 100.0)
    assert len(verify_spatially(OPTIONS, same, same, np.ones(40), np.ones(40))) in (0, 40)


def test_fits_are_exact_without_noise():
    rng = np.random.default_rng(1)
    xy0 = rng.uniform(0, 500, (20, 2))
    affine = np.array([[1.1, 0.2, 5.0], [-0.1, 0.9, 7.0], [0, 0, 1]])
    assert np.allclose(fit_affine(xy0, transfer(xy0, affine)), affine)
    found = fit_homography(xy0, transfer(xy0, HOMOGRAPHIES[0]))
    assert np.allclose(found / found[2, 2], HOMOGRAPHIES[0], atol=1e-8)


def test_options_must_be_positive():
    with pytest.raises(ValueError, match=r"homography_error must be from 0\.001 to"):
        SpatialVerificationOptions(homography_error=0)
    with pytest.raises(ValueError, match="min_num_inliers must be from 4 to"):
        SpatialVerificationOptions(min_num_inliers=3)
