"""Where things are: resizes, COLMAP's and hloc's conventions, and the network's receptive field."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_tensors import random_module, random_uniform

from d2_hloc.core.pixels import (
    cells_to_level,
    from_colmap,
    image_centre,
    level_to_image,
    rescale,
    resize_matrix,
    to_colmap,
)
from d2_hloc.network.backbone import Backbone

pytestmark = pytest.mark.usefixtures("on_device")


def x_ramp(width, height=5):
    """An image whose value is its own x-coordinate."""
    return torch.arange(width, dtype=torch.float64).expand(1, 1, height, width)


def test_rescale_follows_a_resized_image():
    resized = F.interpolate(x_ramp(471), size=(5, 235), mode="bilinear", align_corners=False)
    old = resized[0, 0, 0, 2:-2]  # beyond the ends the values are clamped
    new = rescale(old, 235 / 471)
    assert torch.allclose(new, torch.arange(2, 233, dtype=torch.float64), atol=1e-9)


def test_rescale_keeps_the_outer_edges_and_not_the_corner_pixels():
    assert rescale(np.array([-0.5, 312.5]), 2.0).tolist() == [-0.5, 625.5]
    assert rescale(np.array([0.0]), 2.0).tolist() == [0.5]


def test_rescale_takes_one_factor_an_axis():
    xy = torch.tensor([[10.0, 20.0], [-0.5, 0.0]])
    found = rescale(xy, torch.tensor([2.0, 0.5]))
    assert found.tolist() == [[20.5, 9.75], [-0.5, -0.25]]


def test_rescale_there_and_back_is_exact_for_hlocs_formula():
    xy = np.random.default_rng(0).uniform(0, 2000, (50, 2))
    scale = np.array([4000, 3000]) / np.array([1600, 1200])
    assert np.allclose(rescale(xy, scale), (xy + 0.5) * scale - 0.5)
    assert np.allclose(rescale(rescale(xy, scale), 1 / scale), xy)


def test_a_resizes_matrix_does_what_rescale_does():
    xy = np.random.default_rng(0).uniform(0, 2000, (50, 2))
    moved = np.c_[xy, np.ones(50)] @ resize_matrix(0.4, 1.7).T
    assert np.allclose(moved[:, :2], rescale(xy, np.array([0.4, 1.7])))
    assert np.allclose(moved[:, 2], 1)


def test_colmap_has_the_first_pixels_centre_at_one_half():
    assert to_colmap(np.zeros((1, 2))).tolist() == [[0.5, 0.5]]
    assert from_colmap(torch.tensor([[0.5, 0.5]])).tolist() == [[0.0, 0.0]]


def test_in_colmaps_coordinates_a_resize_is_a_product():
    xy = np.random.default_rng(1).uniform(0, 2000, (50, 2))
    assert np.allclose(to_colmap(rescale(xy, 0.37)), to_colmap(xy) * 0.37)


@pytest.mark.parametrize("size", [(1, 1), (313, 471), (640, 480)])
def test_an_images_centre_is_the_mean_of_its_pixels(size):
    pixels = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), axis=-1)
    assert np.allclose(from_colmap(np.array(image_centre(*size))), pixels.mean(axis=(0, 1)))


@pytest.mark.parametrize("convert", [to_colmap, from_colmap, lambda xy: rescale(xy, 2.0)])
def test_no_keypoints_stay_none(convert):
    assert convert(torch.empty(0, 2)).shape == (0, 2)
    assert convert(np.empty((0, 2), np.float32)).dtype == np.float32


@pytest.mark.parametrize("level_size", [(156, 235), (313, 471), (626, 942), (100, 8)])
def test_centre_undoes_the_pyramids_resize_exactly(level_size):
    size = (313, 471)
    ramps = torch.cat([x_ramp(313, 471), x_ramp(471, 313).transpose(2, 3)], dim=1)
    level = F.interpolate(ramps, size=level_size[::-1], mode="bilinear", align_corners=True)
    columns, rows = torch.meshgrid(
        torch.arange(level_size[0]), torch.arange(level_size[1]), indexing="xy"
    )
    xy = torch.stack([columns, rows], dim=-1).double().flatten(0, 1)
    expected = level[0].permute(1, 2, 0).flatten(0, 1)
    assert torch.allclose(level_to_image(xy, level_size, size, "centre"), expected, atol=1e-9)


def test_released_multiplies_by_the_ratio_of_sizes():
    xy = torch.tensor([[10.0, 20.0]])
    found = level_to_image(xy, (156, 235), (313, 471), "released")
    assert torch.allclose(found, torch.tensor([[10 * 313 / 156, 20 * 471 / 235]]))


def test_a_level_of_one_pixel_divides_by_nothing():
    found = level_to_image(torch.zeros(1, 2), (1, 1), (2, 3), "centre")
    assert found.tolist() == [[0.0, 0.0]]


def test_cells_lie_four_pixels_apart_from_the_named_offset():
    cells = torch.tensor([[0.0, 0.0], [1.25, 2.0]])
    assert cells_to_level(cells, "centre").tolist() == [[3.5, 3.5], [8.5, 11.5]]
    assert cells_to_level(cells, "released").tolist() == [[1.5, 1.5], [6.5, 9.5]]


def positive_backbone():
    """Random positive weights and no bias: every pixel that can reach a cell does."""

    def make():
        backbone = Backbone().requires_grad_(False)
        for name, value in backbone.named_parameters():
            if name.endswith("bias"):
                value.zero_()
            else:
                value.uniform_(0.5, 1.5).div_(9 * value.shape[1])
        return backbone

    return random_module(make, seed=0)


@pytest.mark.parametrize(("width", "height"), [(108, 108), (111, 109)])
def test_a_cell_sees_pixels_around_its_centre_and_equally_far_on_all_sides(width, height):
    backbone = positive_backbone()
    # Above the mean that is taken off.
    images = (random_uniform(1, 3, height, width, seed=1) * 0.4 + 0.6).requires_grad_()
    row, column = 12, 13  # far enough from the border to see 92 pixels
    pooled = backbone.pooled(images)
    backbone.dense_rows(pooled, 0, pooled.shape[2])[0, :, row, column].sum().backward()
    seen = (images.grad[0].abs().sum(dim=0) > 0).nonzero()
    low, high = seen.amin(dim=0), seen.amax(dim=0)
    assert (high - low).tolist() == [91, 91]
    centre = cells_to_level(torch.tensor([[column, row]]), "centre")
    assert ((low + high) / 2).flip(0).tolist() == centre[0].tolist() == [55.5, 51.5]


def test_a_cells_attention_is_centred_on_its_position():
    backbone = positive_backbone()
    images = random_uniform(3, 3, 108, 108, seed=1) * 0.4 + 0.6
    images.requires_grad_()
    pooled = backbone.pooled(images)
    backbone.dense_rows(pooled, 0, pooled.shape[2])[:, :, 12, 12].sum().backward()
    weight = images.grad.sum(dim=(0, 1))
    rows = torch.arange(108.0)
    centre = (weight.sum(dim=1) @ rows / weight.sum(), weight.sum(dim=0) @ rows / weight.sum())
    assert torch.allclose(torch.stack(centre), torch.tensor(51.5), atol=0.2)
