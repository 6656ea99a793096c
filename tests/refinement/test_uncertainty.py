"""Deviations of refined keypoints: their equation, and that they foretell true errors."""

import h5py
import numpy as np
import pytest
import torch
from random_tensors import random_normal, random_uniform

from d2_hloc.files.features_h5 import StorageError
from d2_hloc.network.d2net import D2Net
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.refinement.patches import Outcome, Refined, refine_pairs, shallow_maps
from d2_hloc.refinement.tracks import deviations_of, read_deviations
from d2_hloc.refinement.uncertainty import FLOOR, RESIDUALS, peak_deviations

pytestmark = pytest.mark.usefixtures("on_device")


def test_a_sharp_and_high_peak_is_certain():
    scores = torch.tensor([0.9, 0.9, 0.6])
    hessians = torch.tensor([[-0.04, -0.01, 0.0], [-0.16, -0.04, 0.0], [-0.04, -0.01, 0.0]])
    variances = peak_deviations(scores, hessians) ** 2 - FLOOR**2
    expected = 2 * 0.1 / RESIDUALS * (1 / 0.04 + 1 / 0.01) / 2
    torch.testing.assert_close(variances, expected * torch.tensor([1.0, 0.25, 4.0]))


def test_a_ridge_is_uncertain_whichever_way_it_runs():
    slanted = torch.tensor([[-0.036, -0.065, 0.047]])  # curvatures of about 0.1 and 0.001
    scores, straight = torch.tensor([0.9]), torch.tensor([[-0.1, -0.001, 0.0]])
    both = [peak_deviations(scores, hessian) for hessian in (slanted, straight)]
    assert both[0] > 0.5
    torch.testing.assert_close(*both, rtol=0.2, atol=0)


def test_without_a_peak_nothing_is_known():
    hessians = torch.tensor([[0.1, -0.1, 0.0], [-0.1, -0.1, 0.2], [0.0, 0.0, 0.0]])
    assert peak_deviations(torch.full((3,), 0.9), hessians).isnan().all()


def test_those_said_to_be_uncertain_are_further_off(photo):
    """A photograph, and the same one darker and with noise: half of its pixels have more."""
    net = D2Net().backbone.to(torch.get_default_device())
    noisy = 0.7 * photo + 0.02 * random_normal(*photo.shape, seed=1)
    noisy[:, :, : photo.shape[2] // 2] += 0.1 * random_normal(3, photo.shape[1], 156, seed=2)
    size = torch.tensor([photo.shape[2], photo.shape[1]])
    xy = 30 + random_uniform(400, 2, seed=0) * (size - 60)
    maps = shallow_maps(net, photo), shallow_maps(net, noisy.clamp(0, 1))
    found = refine_pairs(RefinementOptions(), *maps, xy, xy)
    is_moved = found.outcomes == Outcome.MOVED
    errors = (found.xy - xy).norm(dim=1)[is_moved]
    assert found.deviations[~is_moved].isnan().all()
    deviations = found.deviations[is_moved]
    by_deviation = errors[deviations.argsort()].chunk(4)
    assert by_deviation[3].median() > 3 * by_deviation[0].median()
    ratio = errors.median() / deviations.median()
    assert 0.4 < ratio < 2


def test_references_are_exact_and_what_is_in_no_track_is_not_known():
    keypoints = {"a": torch.zeros(3, 2), "b": torch.zeros(2, 2)}
    moved = Refined(
        xy=torch.zeros(2, 2),
        outcomes=torch.zeros(2, dtype=torch.int64),
        deviations=torch.tensor([0.2, torch.nan]),
    )
    pairs = np.array([[2, 0], [1, 1]])
    found = deviations_of({("a", "b"): pairs}, keypoints, [(("a", "b"), moved)], {"a": 2, "b": 1})
    exact = 2 * FLOOR
    np.testing.assert_allclose(found["a"].cpu().numpy(), [np.nan, exact, exact])
    np.testing.assert_allclose(found["b"].cpu().numpy(), [0.2, np.nan], rtol=1e-6)


def test_a_file_of_before_has_no_deviations_and_a_wrong_one_is_named(tmp_path):
    with h5py.File(tmp_path / "refined.h5", "w") as file:
        file["a.jpg/keypoints"] = np.zeros((2, 2), np.float32)
    assert read_deviations(tmp_path / "refined.h5") == {}
    with h5py.File(tmp_path / "refined.h5", "a") as file:
        file["a.jpg/deviations"] = np.zeros((2, 2), np.float32)
    with pytest.raises(StorageError, match=r"refined\.h5: the deviations of a\.jpg"):
        read_deviations(tmp_path / "refined.h5")
