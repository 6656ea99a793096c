"""A sweep finds the exact depth that a scene was rendered with."""

import dataclasses

import numpy as np
import pytest
import torch
from random_tensors import random_uniform
from stereo_scene import CENTRES, render

from d2_hloc.mvs import plane_sweep
from d2_hloc.mvs.correlation import Correlation
from d2_hloc.mvs.options import SweepOptions
from d2_hloc.mvs.plane_sweep import PhotoConsistency, best_hypothesis, median, sweep
from d2_hloc.mvs.views import pixel_grid, projection

pytestmark = pytest.mark.usefixtures("on_device")

OPTIONS = SweepOptions()


@pytest.fixture(scope="module")
def scene():
    return [render(centre) for centre in CENTRES]


@pytest.fixture(scope="module")
def swept(scene):
    return sweep(scene[0].view, [r.view for r in scene[1:]], 2.0, 9.0, OPTIONS)


def test_depth_is_recovered(scene, swept):
    depth = swept[0].cpu().numpy()
    is_found = depth > 0
    errors = np.abs(depth / scene[0].depth - 1)[is_found]
    assert is_found.mean() > 0.95
    assert np.median(errors) < 0.002
    assert (errors < 0.01).mean() > 0.9  # the rest is beside the ball's outline


def test_a_second_refinement_is_more_exact(scene):
    sources = [r.view for r in scene[1:]]
    medians = []
    for refinements in (1, 2):
        options = dataclasses.replace(OPTIONS, hypotheses=24, refinements=refinements)
        depth = sweep(scene[0].view, sources, 2.0, 9.0, options)[0].cpu().numpy()
        medians.append(np.median(np.abs(depth / scene[0].depth - 1)[depth > 0]))
    assert medians[1] < medians[0]


def test_one_source_of_another_size_is_enough(scene):
    source = render(CENTRES[1], width=313, height=201, focal=250.0).view
    depth = sweep(scene[0].view, [source], 2.0, 9.0, OPTIONS)[0].cpu().numpy()
    assert np.median(np.abs(depth / scene[0].depth - 1)[depth > 0]) < 0.004


def test_nothing_is_found_where_there_is_no_texture(scene):
    blank = [dataclasses.replace(r.view, image=torch.full_like(r.view.image, 0.4)) for r in scene]
    depth, score = sweep(blank[0], blank[1:], 2.0, 9.0, OPTIONS)
    assert depth.count_nonzero() == 0
    assert score.isfinite().all()


def test_nothing_is_found_by_a_source_that_looks_elsewhere(scene):
    view = scene[1].view
    turned = view.cam_from_world.clone()
    turned[[0, 2]] *= -1
    depth, _ = sweep(
        scene[0].view, [dataclasses.replace(view, cam_from_world=turned)], 2.0, 9.0, OPTIONS
    )
    assert depth.count_nonzero() == 0
    assert depth.isfinite().all()


def test_depths_lie_in_the_range_that_is_searched(scene):
    depth, _ = sweep(scene[0].view, [r.view for r in scene[1:]], 3.0, 5.0, OPTIONS)
    found = depth[depth > 0]
    assert len(found) > 1000
    assert found.min() >= 3 - 1e-5
    assert found.max() <= 5 + 1e-5


def test_the_same_images_give_the_same_depth(scene, swept):
    again = sweep(scene[0].view, [r.view for r in scene[1:]], 2.0, 9.0, OPTIONS)
    assert all(torch.equal(a, b) for a, b in zip(swept, again, strict=True))


def test_the_true_surface_looks_alike(scene):
    matcher = PhotoConsistency(scene[0].view, [r.view for r in scene[1:]], OPTIONS)
    score = matcher(torch.from_numpy(1 / scene[0].depth).to(scene[0].view.image))
    assert score.median() > 0.98


@pytest.mark.parametrize("sizes", [(211, 160), (96, 97)])
def test_half_the_size_is_the_same_camera(sizes):
    rendered = render(CENTRES[0], *sizes)
    half = rendered.view.halved()
    assert half.size == (sizes[1] // 2, sizes[0] // 2)
    # The corners of the image, half a pixel outside its first and last pixels, stay where they are.
    for view, (height, width) in ((rendered.view, sizes[::-1]), (half, half.size)):
        corner = view.K.new_tensor([width - 0.5, height - 0.5, 1.0])
        ray = torch.linalg.inv(view.K) @ corner
        last = view.K.new_tensor([sizes[0] - 0.5, sizes[1] - 0.5, 1.0])
        expected = torch.linalg.inv(rendered.view.K) @ last
        assert torch.allclose(ray, expected)


def test_a_projection_lands_where_the_point_is_seen(scene):
    source, target = scene[0], scene[1]
    A, b = projection(target.view, source.view)
    pixels = pixel_grid(source.view.image).to(A)
    there = torch.einsum("ij,jhw->ihw", A, pixels)
    there += b[:, None, None] / torch.from_numpy(source.depth)
    x, y = (there[:2] / there[2])[:, 80, 40]
    assert (x - 40).abs() > 5  # it moved
    expected = there[2, 80, 40] * source.depth[80, 40]
    assert target.depth[round(y.item()), round(x.item())] == pytest.approx(expected.item(), 0.01)


def test_correlation_is_that_of_the_window():
    a, b = random_uniform(2, 9, 12, seed=0)
    found = Correlation(a, 5)(b)
    window = torch.stack([a[2:7, 3:8].flatten(), b[2:7, 3:8].flatten()])
    assert found[4, 5].item() == pytest.approx(torch.corrcoef(window)[0, 1].item(), abs=1e-3)
    corner = torch.stack([a[:3, :3].flatten(), b[:3, :3].flatten()])
    assert found[0, 0].item() == pytest.approx(torch.corrcoef(corner)[0, 1].item(), abs=1e-3)
    assert Correlation(a, 5)(0.2 + 0.5 * a).min() > 0.99  # exposure does not matter


def test_the_peak_lies_between_hypotheses():
    scores = [1 - torch.tensor([[(k - 3.3) ** 2, (k - 0.0) ** 2]]) / 100 for k in range(7)]
    peak = best_hypothesis(scores)
    assert peak.index[0, 0].item() == pytest.approx(3.3, abs=1e-4)
    assert peak.index[0, 1] == 0  # the first has no neighbour on one side
    assert peak.score[0].tolist() == pytest.approx([1 - 0.09 / 100, 1])


def test_a_median_removes_what_stands_alone():
    values = torch.ones(9, 11)
    values[4, 5] = 50
    assert torch.equal(median(values), torch.ones(9, 11))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window": 6}, "window is 6; it takes an odd number from 3 on"),
        ({"hypotheses": 1}, "hypotheses must be from 3 to 100000, not 1"),
        ({"refinements": 0}, "refinements must be from 1 to 100, not 0"),
    ],
)
def test_wrong_options_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        SweepOptions(**values)


@pytest.mark.parametrize("span", [(0.0, 1.0), (2.0, 2.0), (1.0, float("inf"))])
def test_an_empty_range_is_refused(scene, span):
    with pytest.raises(ValueError, match="0 < near < far"):
        sweep(scene[0].view, [scene[1].view], *span, OPTIONS)


def test_steep_surfaces_grow_from_what_was_found_of_them(scene, monkeypatch):
    sources = [r.view for r in scene[1:]]
    right = []
    for neighbours in ((0,), plane_sweep.SPREAD):
        monkeypatch.setattr(plane_sweep, "SPREAD", neighbours)
        depth = sweep(scene[0].view, sources, 2.0, 9.0, OPTIONS)[0].cpu().numpy()
        floor = (depth > 0)[-60:] & (np.abs(depth / scene[0].depth - 1) < 0.01)[-60:]
        right.append(floor.mean())
    assert right[1] > right[0]
