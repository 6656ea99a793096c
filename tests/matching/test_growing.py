"""Matches grow from a few that agree to all that are between them, and from nothing they do not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2_hloc.core.structs import Matches
from d2_hloc.matching.growing import KeypointField, grow_matches
from d2_hloc.matching.options import GrowingOptions

pytestmark = pytest.mark.usefixtures("on_device")

OPTIONS = GrowingOptions()
SIZE = 640


def planted(shown=1.0, seed=0):
    """Cells of two images, the second turned and enlarged, with noise in places and descriptors.

    Descriptors repeat over the image ten times, as on a facade: one alone cannot be told.
    """
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(4, SIZE, 8.0), np.arange(4, SIZE, 8.0))
    xy0 = np.stack([x.ravel(), y.ravel()], axis=1) + rng.uniform(-3, 3, (x.size, 2))
    turn = 1.15 * np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    xy1 = (xy0 - SIZE / 2) @ turn.T + SIZE / 2 + rng.uniform(-3, 3, xy0.shape)
    kinds = rng.standard_normal((len(xy0) // 10, 64))
    values = kinds[rng.permutation(len(xy0)) % len(kinds)]
    fields = []
    for xy in (xy0, xy1):
        noisy = torch.from_numpy(values + 0.4 * rng.standard_normal(values.shape)).float()
        fields.append(KeypointField(xy=xy, descriptors=F.normalize(noisy), area=SIZE**2))
    seeds = np.flatnonzero(rng.random(len(xy0)) < 0.04 * shown)
    wrong = rng.integers(0, len(xy0), (300, 2))
    pairs = np.concatenate([np.stack([seeds, seeds], axis=1), wrong])
    return fields, Matches(pairs=torch.from_numpy(pairs), scores=torch.ones(len(pairs)))


def test_grows_to_nearly_all_cells():
    fields, seeds = planted()
    found = grow_matches(OPTIONS, *fields, seeds)
    is_right = found.pairs[:, 0] == found.pairs[:, 1]
    assert int(is_right.sum()) > 0.8 * len(fields[0].xy)
    assert is_right.float().mean() > 0.9
    assert len(found.pairs[:, 0].unique()) == len(found.pairs[:, 1].unique()) == len(found)
    assert bool((found.scores > 0.5).all() and (found.scores <= 1).all())


def test_grows_alike_in_an_image_that_is_stored_larger():
    fields, seeds = planted()
    larger = KeypointField(
        xy=fields[1].xy * 4, descriptors=fields[1].descriptors, area=16 * SIZE**2, noise=4.0
    )
    found = grow_matches(OPTIONS, fields[0], larger, seeds)
    # An enlargement of more than 3 is none that neighbours can agree on.
    assert len(found) == len(seeds)
    both = [
        KeypointField(xy=f.xy * 4, descriptors=f.descriptors, area=16 * SIZE**2, noise=4.0)
        for f in fields
    ]
    torch.testing.assert_close(
        grow_matches(OPTIONS, *both, seeds).pairs, grow_matches(OPTIONS, *fields, seeds).pairs
    )


def test_matches_without_agreement_stay_as_they_are():
    fields, _ = planted()
    rng = np.random.default_rng(1)
    pairs = torch.from_numpy(rng.integers(0, len(fields[0].xy), (300, 2)))
    chance = Matches(pairs=pairs, scores=torch.full((300,), 0.9))
    assert grow_matches(OPTIONS, *fields, chance) is chance


def test_nothing_is_grown_from_nothing():
    fields, _ = planted()
    none = Matches(pairs=torch.empty(0, 2, dtype=torch.int64), scores=torch.empty(0))
    empty = KeypointField(xy=np.empty((0, 2)), descriptors=torch.empty(0, 64), area=1.0)
    for pair in ((fields[0], fields[1]), (empty, fields[1]), (fields[0], empty), (empty, empty)):
        assert len(grow_matches(OPTIONS, *pair, none)) == 0
