"""Keypoints move to where the reference's patch really is, and stay where that cannot be told."""

import pytest
import torch
import torch.nn.functional as F
from random_tensors import random_normal, random_uniform

from d2_hloc.network.d2net import D2Net
from d2_hloc.refinement import patches
from d2_hloc.refinement.affinities import local_affinities
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.refinement.patches import (
    LEVELS,
    Outcome,
    ShallowMaps,
    correlate,
    count_outcomes,
    find_peaks,
    refine_pairs,
    shallow_maps,
    unit_cells,
    warped_patches,
)

pytestmark = pytest.mark.usefixtures("on_device")

OPTIONS = RefinementOptions()


@pytest.fixture(scope="module")
def net(dtype):
    """The trunk in any precision; its maps are a byte a number all the same."""
    return D2Net().backbone.to(torch.get_default_device()).to(dtype)


def warp(image, matrix, shift):
    """The image moved so that pixel x of it is found at matrix @ x + shift."""
    _, height, width = image.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    target = torch.stack([x, y], dim=-1).float()
    source = (target - shift) @ torch.linalg.inv(matrix).T
    size = torch.tensor([width - 1, height - 1])
    grid = (source / size * 2 - 1)[None]
    return F.grid_sample(image[None], grid, mode="bicubic", align_corners=True)[0].clamp(0, 1)


def places(photo, count=200):
    size = torch.tensor([photo.shape[2], photo.shape[1]])
    return 30 + random_uniform(count, 2, seed=0) * (size - 60)


@pytest.mark.parametrize("rows", [2, 6, 10, 34])
def test_strips_of_the_image_change_nothing(net, photo, monkeypatch, rows):
    image = photo[:, :61, :87]
    with torch.no_grad():
        fine, coarse = (unit_cells(maps[0]) for maps in net.shallow(image[None]))
    name = "STRIP_PIXELS" if image.device.type == "cpu" else "DEVICE_STRIP_PIXELS"
    monkeypatch.setattr(patches, name, rows * 87)
    found = shallow_maps(net, image)
    assert (found.fine.int() - fine.int()).abs().max() <= 1
    assert (found.coarse.int() - coarse.int()).abs().max() <= 1
    assert (found.fine != fine).float().mean() < 1e-3


@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.25, -1.5), (-3.4, 3.7)])
def test_finds_a_planted_shift(net, photo, shift):
    shift = torch.tensor(shift)
    moved = warp(photo, torch.eye(2), shift)
    xy = places(photo)
    found = refine_pairs(OPTIONS, shallow_maps(net, photo), shallow_maps(net, moved), xy, xy)
    is_moved = found.outcomes == Outcome.MOVED
    errors = (found.xy - xy - shift).norm(dim=1)[is_moved]
    assert is_moved.float().mean() > 0.5
    assert errors.median() < 0.1
    assert errors.quantile(0.9) < 0.4
    torch.testing.assert_close(found.xy[~is_moved], xy[~is_moved], rtol=0, atol=0)


def test_affinities_of_many_matches_are_those_of_a_few(monkeypatch):
    xy0, at = (random_uniform(n, 2, seed=n) * 500 for n in (300, 40))
    xy1 = xy0 @ torch.tensor([[1.1, 0.2], [-0.1, 0.9]]) + (xy0 / 100) ** 2
    few = local_affinities(xy0, xy1, at, neighbours=16)
    monkeypatch.setattr("d2_hloc.refinement.affinities.MANY", 100)
    many = local_affinities(xy0, xy1, at, neighbours=16)
    torch.testing.assert_close(many, few, atol=0.01, rtol=0)  # distances are rounded otherwise


def test_a_local_affinity_helps_where_the_view_turns(net, photo):
    matrix = torch.tensor([[0.9, -0.3], [0.3, 0.9]])
    centre = torch.tensor([photo.shape[2], photo.shape[1]]) / 2
    shift = centre - matrix @ centre
    moved = warp(photo, matrix, shift)
    maps = shallow_maps(net, photo), shallow_maps(net, moved)
    xy0 = places(photo)
    truth = xy0 @ matrix.T + shift
    noise = random_normal(*truth.shape, seed=1)
    affinities = local_affinities(xy0, truth + noise, xy0, neighbours=16)
    torch.testing.assert_close(affinities.mean(dim=0), matrix, atol=0.05, rtol=0)
    plain = refine_pairs(OPTIONS, *maps, xy0, truth + noise)
    warped = refine_pairs(OPTIONS, *maps, xy0, truth + noise, affinities)
    errors = [(r.xy - truth).norm(dim=1)[r.outcomes == Outcome.MOVED] for r in (plain, warped)]
    assert errors[1].median() < 0.2
    assert errors[1].median() < 0.7 * errors[0].median()
    assert len(errors[1]) > len(errors[0])


def test_flat_images_move_nothing(net):
    maps = shallow_maps(net, torch.full((3, 96, 128), 0.5))
    xy = torch.tensor([[64.0, 48.0], [40.5, 50.25]])
    found = refine_pairs(OPTIONS, maps, maps, xy, xy + 1)
    assert (found.outcomes != Outcome.MOVED).all()
    assert found.xy.tolist() == (xy + 1).tolist()


def test_a_peak_beyond_the_window_is_kept_as_border(net, photo):
    maps = shallow_maps(net, photo)
    xy = places(photo)
    found = refine_pairs(OPTIONS, maps, maps, xy, xy + 15)
    counts = count_outcomes(found.outcomes)
    assert counts["border"] > 0.4 * len(xy)
    assert sum(counts.values()) == len(xy)


def test_no_keypoints(net, photo):
    maps = shallow_maps(net, photo)
    assert refine_pairs(OPTIONS, maps, maps, torch.empty(0, 2), torch.empty(0, 2)).xy.shape == (
        0,
        2,
    )


def test_keypoints_at_the_image_border_stay_finite(net, photo):
    maps = shallow_maps(net, photo)
    corners = torch.tensor([[0.0, 0.0], [photo.shape[2] - 1.0, photo.shape[1] - 1.0]])
    assert refine_pairs(OPTIONS, maps, maps, corners, corners).xy.isfinite().all()


def test_correlation_equals_a_slow_loop():
    torch.manual_seed(0)
    maps = F.normalize(torch.randn(30, 34, 5), dim=2)
    template = warped_patches(maps, torch.tensor([[12.25, 14.5]]), torch.eye(2)[None], 2)
    cells = warped_patches(maps, torch.tensor([[13.0, 13.0]]), torch.eye(2)[None], 5)
    scores = correlate(template, cells, 2, 3)[0]
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            window = maps[13 + dy - 2 : 13 + dy + 3, 13 + dx - 2 : 13 + dx + 3].reshape(25, 5)
            expected = (window * template[0]).sum(dim=1).mean()
            torch.testing.assert_close(scores[dy + 3, dx + 3], expected)


def test_a_paraboloid_has_its_top_found_exactly():
    y, x = torch.meshgrid(torch.arange(-3.0, 4), torch.arange(-3.0, 4), indexing="ij")
    tops = torch.tensor([[0.3, -1.2], [1.4, 0.9]])
    scores = torch.stack([1 - 0.02 * (x - a) ** 2 - 0.03 * (y - b) ** 2 for a, b in tops])
    peaks = find_peaks(scores, ambiguity=0.01)
    torch.testing.assert_close(peaks.steps, tops, atol=1e-4, rtol=0)
    assert peaks.outcomes.tolist() == [Outcome.MOVED, Outcome.MOVED]


def test_two_equal_peaks_are_ambiguous():
    scores = torch.zeros(1, 9, 9)
    scores[0, 2, 2] = scores[0, 6, 6] = 1.0
    assert find_peaks(scores, ambiguity=0.01).outcomes.tolist() == [Outcome.FLAT]


def test_too_few_matches_leave_patches_unwarped():
    xy = torch.rand(5, 2) * 100
    assert local_affinities(xy, xy * 2, xy, 16).tolist() == torch.eye(2).expand(5, 2, 2).tolist()


def test_maps_are_unit_vectors_a_byte_a_number(net, photo):
    maps = shallow_maps(net, photo)
    assert isinstance(maps, ShallowMaps)
    assert maps.fine.shape == (235, 313, 64)
    assert maps.coarse.shape == (117, 156, 128)
    assert maps.nbytes == 235 * 313 * 64 + 117 * 156 * 128
    norms = maps.coarse.float().norm(dim=2) / LEVELS
    assert (norms[norms > 0] - 1).abs().max() < 0.01
