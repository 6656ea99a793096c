"""Cells of the training form as features: on corners, of a bounded number, none without texture."""

import pytest
import torch

from d2_hloc.features.options import CompressionOptions, ExtractionOptions
from d2_hloc.network.cells import describe_cells, describe_parts, strongest_corners
from d2_hloc.network.options import CellOptions

pytestmark = pytest.mark.usefixtures("on_device")


def test_a_keypoint_is_on_the_corner_of_its_cell():
    image = torch.full((3, 40, 48), 0.5)
    image[:, 19:, 21:] = 1.0  # a corner in the cell of row 2, column 2
    response, xy = strongest_corners(image, (5, 6))
    strongest = response.argmax()
    assert int(strongest) == 2 * 6 + 2
    assert (xy[strongest] - torch.tensor([21, 19])).abs().max() <= 1
    assert response.reshape(5, 6)[0, 0] < 1e-6


def test_cells_cover_the_image(backbone, photo):
    found = describe_cells(backbone, photo, CellOptions())
    assert found.descriptors.shape == (len(found), 512)
    torch.testing.assert_close(found.descriptors.norm(dim=1), torch.ones(len(found)))
    cells = (found.keypoints // 8).long()
    assert len(torch.unique(cells, dim=0)) == len(found)  # at most one a cell
    assert cells.amax(dim=0).tolist() == [photo.shape[2] // 8 - 1, photo.shape[1] // 8 - 1]
    assert len(found) > 0.9 * (photo.shape[2] // 8) * (photo.shape[1] // 8)


def test_descriptors_are_those_of_the_training_form(backbone, photo):
    found = describe_cells(backbone, photo, CellOptions())
    maps = backbone.training_head(backbone.training_trunk(photo[None], "conv4_1"), "conv4_1")
    x, y = (found.keypoints[17] // 8).long().tolist()
    expected = torch.nn.functional.normalize(maps[0, :, y, x].relu(), dim=0)
    torch.testing.assert_close(found.descriptors[17], expected)


def test_a_budget_reduces_the_size_and_not_the_places(backbone, photo):
    whole, few = (describe_cells(backbone, photo, CellOptions(max_cells=n)) for n in (2000, 300))
    assert 200 < len(few) <= 300 < len(whole)
    assert few.keypoints.amax(dim=0)[0] > photo.shape[2] - 20
    assert float(few.scales[0]) == pytest.approx((len(whole) / len(few)) ** 0.5, rel=0.15)
    # They are corners of the whole image: most are also that of one of its small cells.
    _, corners = strongest_corners(photo[:, :232, :312], (29, 39))
    is_one = (few.keypoints[:, None] == corners[None].float()).all(dim=2).any(dim=1)
    assert is_one.float().mean() > 0.5


def test_parts_are_the_cells_of_conv3_in_those_of_conv4(backbone, photo):
    found, cells = describe_parts(backbone, photo, CellOptions(min_texture=0))
    rows, columns = photo.shape[1] // 8, photo.shape[2] // 8
    assert found.descriptors.shape == (4 * len(cells), 256) == (4 * rows * columns, 256)
    m = 5 * columns + 7
    expected = [[7 * 8 + x, 5 * 8 + y] for y in (1.5, 5.5) for x in (1.5, 5.5)]
    assert found.keypoints[4 * m : 4 * m + 4].tolist() == expected
    *_, third, fourth = backbone.stages(photo[None])
    part = torch.nn.functional.normalize(third[0, :, 11, 14], dim=0)
    torch.testing.assert_close(found.descriptors[4 * m + 2], part)
    cell = torch.nn.functional.normalize(fourth[0, :, 5, 7], dim=0)
    torch.testing.assert_close(cells[m], cell, atol=1e-5, rtol=1e-4)


def test_parts_of_a_reduced_image_are_in_its_own_pixels(backbone, photo):
    found, cells = describe_parts(backbone, photo, CellOptions(max_cells=300))
    assert len(cells) <= 300
    far = found.keypoints.amax(dim=0)
    assert (torch.tensor([photo.shape[2], photo.shape[1]]) - far < 24).all()
    assert float(found.scales[0]) > 1


def test_a_flat_image_and_a_tiny_one(backbone):
    assert len(describe_cells(backbone, torch.full((3, 31, 47), 0.3), CellOptions())) == 0
    with pytest.raises(ValueError, match="7 x 30 is too small: 8 at least"):
        describe_cells(backbone, torch.zeros(3, 30, 7), CellOptions())


def test_descriptors_are_not_projected_twice():
    compression = {"dimensions": 64}
    with pytest.raises(ValueError, match="have 128 numbers already"):
        ExtractionOptions(feature="d2net-dense", compression=CompressionOptions(**compression))
    with pytest.raises(ValueError, match="leave top_k out"):
        ExtractionOptions(feature="densesfm", top_k=100)
    whole = CellOptions(dimensions=None)
    ExtractionOptions(
        feature="d2net-dense", cells=whole, compression=CompressionOptions(**compression)
    )
