"""Fusion of levels (Eq. 8) and response gating, on planted maps and without the network."""

import pytest
import torch
import torch.nn.functional as F

from d2_hloc.network import pyramid
from d2_hloc.network.backbone import Backbone
from d2_hloc.network.description import GeneralizedMean, describe
from d2_hloc.network.pyramid import levels, resize, resize_mask, upsampled_rows

pytestmark = pytest.mark.usefixtures("on_device")

DEPTH = 3
WIDTH, HEIGHT = 64, 48  # of the image


class Planted(Backbone):
    """A stand-in for the backbone: maps by the width of the level's image."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def pooled(self, images):
        height, width = self.maps[images.shape[3]].shape[1:]
        return torch.full((len(images), 256, height, width), float(images.shape[3]))

    def dense_rows(self, pooled, top, bottom):
        maps = self.maps[int(pooled.flatten()[0])]
        return maps[None, :, top:bottom].repeat(len(pooled), 1, 1, 1)

    def empty_maps(self, pooled):
        return torch.empty(len(pooled), DEPTH, *pooled.shape[2:])


def planted(size, *peaks):
    """Maps (DEPTH, h, w) that are zero but for peaks (channel, row, column, value)."""
    maps = torch.zeros(DEPTH, *size)
    for channel, row, column, value in peaks:
        maps[channel, row, column] = value
    return maps


def run(*maps, scales=(0.5, 1.0, 2.0)):
    """The levels of one image whose level of the k-th scale has the k-th maps."""
    images = torch.zeros(1, 3, HEIGHT, WIDTH)
    by_width = {int(WIDTH * s): m for s, m in zip(scales, maps, strict=False)}
    scales = scales[: len(maps)]
    return list(levels(Planted(by_width), images, scales, 5.0, [GeneralizedMean()]))


def cells(level):
    return level.parts[0].positions.round().int().tolist()


def test_a_single_level_has_what_was_planted():
    (level,) = run(planted((11, 15), (1, 4, 6, 2.0), (2, 8, 3, 1.0)))
    assert cells(level) == [[4, 6], [8, 3]]
    assert level.parts[0].values.tolist() == [2.0, 1.0]
    assert level.parts[0].descriptors.tolist() == [[0, 1, 0], [0, 0, 1]]


def test_a_level_knows_its_index_scale_and_size_width_first():
    found = run(planted((5, 7)), planted((11, 15)), planted((23, 31)))
    assert [(level.index, level.scale, level.size) for level in found] == [
        (0, 0.5, (32, 24)),
        (1, 1.0, (64, 48)),
        (2, 2.0, (128, 96)),
    ]


def test_a_finer_detection_under_a_coarser_one_is_ignored():
    coarse = planted((5, 7), (0, 2, 3, 1.0))
    fine = planted((10, 14), (1, 4, 6, 9.0), (1, 8, 2, 9.0))  # (4, 6) lies under (2, 3)
    found = run(coarse, fine)
    assert cells(found[0]) == [[2, 3]]
    assert cells(found[1]) == [[8, 2]]


@pytest.mark.parametrize(
    ("cell", "is_ignored"),
    [((4, 6), True), ((5, 7), True), ((3, 6), False), ((6, 7), False), ((5, 8), False)],
)
def test_the_marked_region_is_the_coarse_cell_alone(cell, is_ignored):
    coarse = planted((5, 7), (0, 2, 3, 1.0))
    fine = planted((10, 14), (1, *cell, 9.0))
    assert (list(cell) not in cells(run(coarse, fine)[1])) is is_ignored


def test_marks_reach_through_all_finer_levels():
    coarse = planted((5, 7), (0, 2, 3, 1.0))
    middle = planted((10, 14), (1, 8, 2, 9.0))
    fine = planted((20, 28), (2, 9, 13, 90.0), (2, 17, 5, 90.0), (2, 3, 20, 90.0))
    assert cells(run(coarse, middle, fine)[2]) == [[3, 20]]


def test_a_detection_that_is_dropped_for_its_step_marks_its_cell_all_the_same():
    coarse = planted((5, 7), (0, 2, 3, 1.0), (0, 2, 4, 1.0))  # equal: both steps are too large
    fine = planted((10, 14), (1, 4, 6, 9.0), (1, 4, 9, 9.0), (1, 8, 2, 9.0))
    found = run(coarse, fine)
    assert cells(found[0]) == []
    assert cells(found[1]) == [[8, 2]]


def test_an_edge_marks_nothing():
    ridge = torch.zeros(DEPTH, 5, 7)
    ridge[0, 2] = 1.0
    ridge[0, 2, 3] = 1.001
    fine = planted((10, 14), (1, 4, 6, 9.0))
    assert [4, 6] in cells(run(ridge, fine)[1])


def ramps(size):
    """Maps that rise to one corner: they have no peak elsewhere."""
    rows, columns = torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij")
    return torch.stack([rows + columns, 2 * rows + columns, rows + 3 * columns]) / 10


def test_values_and_descriptors_are_of_the_fused_maps():
    """Eq. 8, as released: a level gets the sum of all coarser ones, resized from level to level."""
    coarse, middle = ramps((5, 7)), 3 * ramps((11, 15))
    fine = planted((23, 31), (0, 6, 9, 50.0), (1, 14, 5, 70.0))

    def up(maps, size):
        return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=True)[0]

    fused = fine + up(middle + up(coarse, (11, 15)), (23, 31))
    (part,) = run(coarse, middle, fine)[2].parts
    found = {tuple(p): k for k, p in enumerate(part.positions.round().int().tolist())}
    for channel, row, column in ((0, 6, 9), (1, 14, 5)):
        k = found[row, column]
        assert float(part.values[k]) == pytest.approx(float(fused[channel, row, column]))
        expected = describe(fused, part.positions[k : k + 1])[0]
        torch.testing.assert_close(part.descriptors[k], expected)
    assert fused[0, 6, 9] > 52  # the coarser levels' share matters


def test_a_coarse_peak_that_fusion_carries_into_a_finer_level_is_ignored(monkeypatch):
    coarse, nothing = planted((5, 7), (0, 1, 2, 1.0)), planted((10, 14))
    assert cells(run(coarse, nothing)[1]) == []
    monkeypatch.setattr(pyramid, "resize_mask", lambda _, pooled: resize_mask(None, pooled))
    assert cells(run(coarse, nothing)[1]) == [[2, 4]]  # what gating is there for


@pytest.mark.parametrize("cells_a_strip", [1, 40, 100])
def test_strips_change_nothing(monkeypatch, cells_a_strip):
    torch.manual_seed(0)
    maps = [F.relu(torch.randn(DEPTH, *size)) for size in ((11, 15), (23, 31), (47, 63))]
    whole = run(*maps)
    monkeypatch.setattr(pyramid, "STRIP_CELLS", cells_a_strip)
    for level, expected in zip(run(*maps), whole, strict=True):
        (part,), (other,) = level.parts, expected.parts
        assert len(other.positions) > 3
        torch.testing.assert_close(part.positions, other.positions)
        torch.testing.assert_close(part.values, other.values)
        torch.testing.assert_close(part.descriptors, other.descriptors)


@pytest.mark.parametrize(
    ("coarse", "fine"), [((58, 78), (117, 156)), ((1, 1), (2, 3)), ((4, 5), (4, 5))]
)
def test_rows_of_the_upsampled_maps_equal_the_whole(coarse, fine):
    torch.manual_seed(0)
    maps = torch.rand(2, DEPTH, *coarse)
    whole = F.interpolate(maps, size=fine, mode="bilinear", align_corners=True)
    for top, bottom in [(0, fine[0]), (0, 1), (fine[0] - 1, fine[0]), (fine[0] // 3, fine[0] // 2)]:
        if top < bottom:
            found = upsampled_rows(maps, fine, top, bottom)
            torch.testing.assert_close(found, whole[:, :, top:bottom], rtol=1e-4, atol=1e-5)


def test_a_mask_is_resized_to_the_nearest_cell():
    mask = torch.zeros(1, 5, 7, dtype=torch.bool)
    mask[0, 2, 3] = True
    found = resize_mask(mask, torch.empty(1, 256, 10, 14))
    assert found.dtype == torch.bool
    assert found[0].nonzero().tolist() == [[4, 6], [4, 7], [5, 6], [5, 7]]


def test_no_mask_marks_nothing():
    found = resize_mask(None, torch.empty(2, 256, 5, 7))
    assert found.shape == (2, 5, 7)
    assert not found.any()


def test_a_level_keeps_the_corner_pixels(photo):
    level = resize(photo[None], 0.5)
    assert level.shape == (1, 3, 117, 156)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert torch.allclose(level[0, :, *corner], photo[:, *corner], atol=1e-5)


def test_scale_one_leaves_the_image_alone(photo):
    assert resize(photo[None], 1.0).data_ptr() == photo.data_ptr()
