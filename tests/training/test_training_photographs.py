"""Pairs from photographs: correspondences seen in the pixels, their light, their repetition."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data

from d2_hloc.core.homography_metrics import transfer
from d2_hloc.core.images import to_tensor
from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.photographs.masks import save_mask
from d2_hloc.core.pixels import TRAINING_STRIDE, pixels_to_cells
from d2_hloc.training.pair import split
from d2_hloc.training.photographs import (
    PhotographOptions,
    PhotographPairs,
    PhotoViewOptions,
    pair_from_photograph,
    warp,
)
from d2_hloc.training.photometric import PhotometricOptions, relight

STEADY = PhotometricOptions(night=0, exposure=0, contrast=0, colour=0, blur=0, noise=0, jpeg=0)


def ramps(width=600, height=420):
    """A photograph whose red and green are its own coordinates."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    values = np.stack([x / width, y / height, np.full(x.shape, 0.5)], axis=2)
    return Image.fromarray((values * 255).round().astype(np.uint8))


def sample(image, xy):
    """Bilinear values (K, 3) at pixels (x, y)."""
    size = torch.tensor(image.shape[:0:-1])
    grid = (2 * xy / (size - 1) - 1)[None, None]
    return F.grid_sample(image[None], grid, align_corners=True)[0, :, 0].T


@pytest.mark.parametrize("seed", range(6))
def test_both_ends_show_the_same_place_of_the_photograph(seed):
    """Within a pixel of the photograph, in which red and green count pixels."""
    options = PhotographOptions(crop=128, photometric=STEADY)
    pair = pair_from_photograph("ramps", ramps(255, 255), options, np.random.default_rng(seed))
    assert len(pair) >= 128
    ends = [sample(i, xy) for i, xy in ((pair.image0, pair.xy0), (pair.image1, pair.xy1))]
    inner = ((ends[0] > 3 / 255) & (ends[0] < 252 / 255))[:, :2].all(dim=1)
    apart = 255 * (ends[0] - ends[1])[inner, :2]
    assert apart.abs().max() < 1  # a step of 8 bits is a pixel of the photograph
    assert apart.mean(dim=0).abs().max() < 0.1


def test_masked_parts_of_a_photograph_correspond_to_nothing(tmp_path):
    ramps(255, 255).save(tmp_path / "a.png")
    shown = np.ones((255, 255), bool)
    shown[:, :120] = False
    save_mask(tmp_path / "masks" / "a.png.png", shown)
    masks = MaskOptions(folder=tmp_path / "masks")
    options = PhotographOptions(crop=128, photometric=STEADY, masks=masks)
    found = [PhotographPairs(options, tmp_path, ["a.png"], seed).pair(0, 0) for seed in range(6)]
    x = torch.cat([255 * sample(pair.image0, pair.xy0)[:, 0] for pair in found])
    assert len(x) > 128
    assert x.min() > 118  # red counts columns


def test_a_crop_is_where_its_homography_says():
    photo = Image.fromarray(data.astronaut())
    shift = np.array([[1.0, 0, -30], [0, 1, -40], [0, 0, 1]])
    crop = warp(photo, shift, (64, 48))
    assert torch.allclose(crop, to_tensor(photo)[:, 40:88, 30:94], atol=1e-5)


def test_a_reduced_crop_is_filtered_and_stays_in_place():
    dots = np.zeros((400, 400, 3), np.uint8)
    dots[::2, ::2] = 255  # finer than a crop of half the size can show
    half = np.array([[0.5, 0, -20], [0, 0.5, -20], [0, 0, 1]])
    assert warp(Image.fromarray(dots), half, (100, 100)).std() < 0.02
    found = warp(ramps(400, 400), half, (100, 100))
    expected = transfer(np.array([[60.0, 30.0]]), np.linalg.inv(half))[0] / 400
    assert np.allclose(found[:2, 30, 60], expected, atol=2 / 255)


def test_first_ends_are_cell_centres_each_once():
    pair = pair_from_photograph("ramps", ramps(), PhotographOptions(), np.random.default_rng(3))
    cells = pixels_to_cells(pair.xy0, TRAINING_STRIDE)
    assert torch.equal(cells, cells.round())
    assert len(cells.unique(dim=0)) == len(cells)
    assert pair.image0.shape == pair.image1.shape == (3, 256, 256)


def test_a_small_photograph_still_gives_a_pair():
    options = PhotographOptions(crop=128)
    pair = pair_from_photograph("small", ramps(90, 70), options, np.random.default_rng(0))
    assert pair.image1.shape == (3, 128, 128)
    assert pair.image1.isfinite().all()


@pytest.fixture
def folder(tmp_path):
    for name in ("astronaut", "coffee"):
        Image.fromarray(getattr(data, name)()).save(tmp_path / f"{name}.png")
    return tmp_path


def test_an_epoch_and_an_index_give_the_same_pair_always(folder):
    names = ["astronaut.png", "coffee.png"]
    options = PhotographOptions(pairs_per_photo=2)
    first, again = (PhotographPairs(options, folder, names, seed=5) for _ in range(2))
    assert len(first) == 4
    again.pair(0, 0)  # what was made before does not matter
    one, same = first.pair(2, 1), again.pair(2, 1)
    assert torch.equal(one.image0, same.image0)
    assert torch.equal(one.image1, same.image1)
    assert torch.equal(one.xy1, same.xy1)
    for other in (
        first.pair(3, 1),
        first.pair(2, 3),
        PhotographPairs(options, folder, names, 6).pair(2, 1),
    ):
        assert other.name == "coffee.png"
        assert not torch.equal(one.image1, other.image1)


def test_a_damaged_photograph_is_left_out_by_name(folder, caplog):
    (folder / "torn.png").write_bytes(b"\x89PNG")
    source = PhotographPairs(PhotographOptions(), folder, ["torn.png"], 0)
    with caplog.at_level(logging.WARNING):
        assert source.pair(0, 0) is None
    assert "torn.png: cannot be read as an image" in caplog.text


def test_the_split_is_the_same_every_time_and_whole():
    names = [f"{i:03}.jpg" for i in range(50)]
    train, held = split(names, 0.1, seed=1)
    assert (len(train), len(held)) == (45, 5)
    assert sorted(train + held) == names
    assert split(names, 0.1, seed=1) == (train, held)
    assert split(names, 0.1, seed=2)[1] != held
    assert [len(part) for part in split(names[:2], 0.0, seed=0)] == [1, 1]
    with pytest.raises(ValueError, match="1 photograph or scene cannot be split"):
        split(names[:1], 0.1, seed=0)


@pytest.mark.parametrize("seed", range(8))
def test_light_changes_and_stays_in_range(photo, seed):
    options = PhotometricOptions(night=seed % 2)
    found = relight(photo, options, np.random.default_rng(seed))
    assert found.shape == photo.shape
    assert found.isfinite().all()
    assert 0 <= found.min() <= found.max() <= 1
    assert (found - photo).abs().mean() > 0.02


def test_no_change_asked_none_made(photo):
    assert torch.allclose(relight(photo, STEADY, np.random.default_rng(0)), photo, atol=1e-5)


def test_nights_are_darker_and_warmer(photo):
    options = PhotometricOptions(night=1, exposure=0, contrast=0, colour=0, blur=0, noise=0, jpeg=0)
    nights = [relight(photo, options, np.random.default_rng(s)).mean(dim=(1, 2)) for s in range(9)]
    day, night = photo.mean(dim=(1, 2)), torch.stack(nights).mean(dim=0)
    assert night.mean() < 0.75 * day.mean()
    assert night[0] / night[2] > 1.05 * day[0] / day[2]


def test_black_has_a_night_too():
    black = torch.zeros(3, 40, 40)
    assert relight(black, PhotometricOptions(night=1), np.random.default_rng(0)).isfinite().all()


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match=r"crop must be a multiple of 8 .* not 100"):
        PhotographOptions(crop=100)
    with pytest.raises(ValueError, match="noise must be from 0 to 1, not -1"):
        PhotometricOptions(noise=-1)
    with pytest.raises(ValueError, match=r"scale must be from 1 to 100, not 0.5"):
        PhotoViewOptions(scale=0.5)


def test_photographs_that_were_replaced_are_other_pairs(tmp_path):
    ramps(64, 64).save(tmp_path / "a.bmp")
    before = PhotographPairs(PhotographOptions(), tmp_path, ["a.bmp", "gone.bmp"], seed=0).identity
    assert (
        PhotographPairs(PhotographOptions(), tmp_path, ["a.bmp", "gone.bmp"], 1).identity == before
    )
    Image.new("RGB", (64, 64)).save(tmp_path / "a.bmp")  # as large as the other
    again = PhotographPairs(PhotographOptions(), tmp_path, ["a.bmp", "gone.bmp"], seed=0).identity
    assert again != before
