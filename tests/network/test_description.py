"""Descriptors between cells, and the global descriptor."""

import pytest
import torch
import torch.nn.functional as F

from d2_hloc.network.description import GeneralizedMean, describe, has_corners

pytestmark = pytest.mark.usefixtures("on_device")


def test_a_planted_cell_is_described_by_its_channels(dtype):
    maps = torch.zeros(4, 5, 7, dtype=dtype)
    maps[:, 2, 3] = torch.tensor([3.0, 0.0, 4.0, 0.0], dtype=dtype)
    found = describe(maps, torch.tensor([[2.0, 3.0]]))
    assert torch.allclose(found, torch.tensor([[0.6, 0.0, 0.8, 0.0]]))


def test_between_cells_the_maps_are_bilinear():
    torch.manual_seed(0)
    maps = torch.rand(6, 31, 47)
    positions = torch.rand(80, 2) * torch.tensor([30.0, 46.0])
    grid = positions.flip(1) / torch.tensor([46.0, 30.0]) * 2 - 1
    expected = F.grid_sample(maps[None], grid[None, None], mode="bilinear", align_corners=True)
    expected = F.normalize(expected[0, :, 0].T, dim=1)
    assert torch.allclose(describe(maps, positions), expected, atol=1e-5)


@pytest.mark.parametrize("position", [(0.0, 0.0), (4.0, 6.0), (4.0, 2.5), (1.25, 6.0)])
def test_the_last_row_and_column_can_be_described(position):
    torch.manual_seed(0)
    maps = torch.rand(6, 5, 7)
    assert describe(maps, torch.tensor([position])).norm().item() == pytest.approx(1)


def test_no_positions_have_no_descriptors_of_full_width():
    assert describe(torch.rand(6, 5, 7), torch.empty(0, 2)).shape == (0, 6)


def test_half_precision_maps_have_float32_descriptors():
    torch.manual_seed(0)
    maps, positions = torch.rand(6, 5, 7), torch.tensor([[1.3, 2.6]])
    found = describe(maps.half(), positions)
    assert found.dtype == torch.float32
    assert torch.allclose(found, describe(maps, positions), atol=1e-3)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ((0.0, 0.0), True),
        ((4.0, 6.0), True),
        ((3.9, 5.9), True),
        ((-0.1, 3.0), False),
        ((2.0, -0.1), False),
        ((4.1, 3.0), False),
        ((2.0, 6.1), False),
        ((6.0, 4.0), False),  # rows come first
    ],
)
def test_a_position_needs_its_four_cells_inside_the_map(position, expected):
    assert has_corners(torch.tensor([position]), 5, 7).tolist() == [expected]


def test_the_global_descriptor_is_the_generalized_mean_at_unit_length():
    torch.manual_seed(0)
    maps = torch.rand(6, 31, 47)
    pool = GeneralizedMean()
    pool.add(maps)
    mean = (maps.double() ** 3).mean(dim=(1, 2)) ** (1 / 3)
    assert torch.allclose(pool.result().double(), mean / mean.norm(), atol=1e-6)


def test_the_global_descriptor_does_not_depend_on_strips():
    torch.manual_seed(0)
    maps = torch.rand(6, 31, 47)
    whole, parts = GeneralizedMean(), GeneralizedMean()
    whole.add(maps)
    for strip in maps.split(4, dim=1):
        parts.add(strip)
    assert torch.allclose(whole.result(), parts.result())


def test_maps_of_zeros_have_a_finite_global_descriptor():
    pool = GeneralizedMean()
    pool.add(torch.zeros(6, 5, 7))
    assert torch.equal(pool.result(), torch.zeros(6))


def test_a_global_descriptor_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="No maps were added"):
        GeneralizedMean().result()
