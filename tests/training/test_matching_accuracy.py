"""Held-back pairs matched as at test: planted motion, and the rim where nothing is known."""

import numpy as np
import torch
from PIL import Image
from skimage import data

from d2_hloc.core.homography_metrics import transfer
from d2_hloc.training.matching_accuracy import follow, match_held_back
from d2_hloc.training.pair import TrainingPair, cell_centres, to_float
from d2_hloc.training.photographs import (
    PhotographOptions,
    homography_correspondences,
    pair_from_photograph,
)
from d2_hloc.training.photometric import PhotometricOptions

SHIFT = torch.tensor([-16.0, 8.0])


def shifted(image, keep=lambda xy: np.ones(len(xy), bool)):
    """A pair whose second crop shows the same 16 pixels further to the left, 8 further down."""
    xy0 = cell_centres(128, 128)
    xy0 = xy0[(xy0[:, 0] >= 16) & (xy0[:, 1] < 120) & keep(xy0)]
    return TrainingPair(
        name="shifted",
        image0=image[:, 20:148, 20:148],
        image1=image[:, 12:140, 36:164],
        xy0=to_float(xy0),
        xy1=to_float(xy0) + SHIFT,
    )


def test_exact_copies_match_rightly(backbone, photo):
    share, right, features = match_held_back(backbone, shifted(photo)).tolist()
    assert share > 0.7  # the crops' rims differ, and the network sees far
    assert right > 5
    assert features > right


def test_a_wrong_truth_makes_no_match_right(backbone, photo):
    pair = shifted(photo)
    moved = TrainingPair(**{**vars(pair), "xy1": pair.xy1 + 20})
    share, right, _ = match_held_back(backbone, moved).tolist()
    assert share < 0.2
    assert right < 3


def test_flat_crops_and_unknown_places_count_as_nothing(backbone, photo):
    flat = shifted(torch.full((3, 235, 313), 0.5))
    assert match_held_back(backbone, flat).tolist()[:2] == [0, 0]
    nowhere = shifted(photo, keep=lambda xy: np.zeros(len(xy), bool))
    assert match_held_back(backbone, nowhere).tolist()[:2] == [0, 0]


def test_positions_between_cells_follow_the_homography():
    photo = Image.fromarray(data.astronaut())
    still = PhotometricOptions(night=0, exposure=0, contrast=0, colour=0, blur=0, noise=0, jpeg=0)
    pair = pair_from_photograph(
        "p", photo, PhotographOptions(photometric=still), np.random.default_rng(1)
    )
    homography = np.array([[0.9, 0.2, 5], [-0.1, 1.1, 9], [2e-4, -1e-4, 1]])
    xy0, xy1 = homography_correspondences(homography, (256, 256))
    pair = TrainingPair(**{**vars(pair), "xy0": to_float(xy0), "xy1": to_float(xy1)})
    places = np.random.default_rng(0).uniform(0, 255, (500, 2))
    found = follow(pair, to_float(places)).numpy()
    known = np.isfinite(found).all(axis=1)
    assert 200 < known.sum() < 500
    assert np.abs(found[known] - transfer(places[known], homography)).max() < 0.1


def test_the_rim_and_gaps_are_unknown():
    pair = shifted(torch.zeros(3, 200, 200), keep=lambda xy: (xy != [51.5, 59.5]).any(axis=1))
    places = torch.tensor([[19.5, 3.5], [60.0, 70.0], [48.0, 57.0], [1.0, 1.0], [127.0, 127.0]])
    found = follow(pair, places)
    assert torch.equal(found[:2], places[:2] + SHIFT)
    assert found[2:].isnan().all()
