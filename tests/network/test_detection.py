"""Hard detection against planted peaks and dense filters, soft detection against slow loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from d2_hloc.network.detection import (
    detect,
    first_differences,
    is_not_edge,
    newton_steps,
    ratio_to_max,
    second_differences,
    soft_local_max,
    soft_scores,
)

pytestmark = pytest.mark.usefixtures("on_device")

EDGE_LIMIT = (5 + 1) ** 2 / 5


def paraboloid(top, curvatures, size=(9, 11), cross=0.0, height=1.0):
    """A map whose value is a quadratic of the distance (row, column) to `top`."""
    i, j = torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij")
    di, dj = i - top[0], j - top[1]
    return height - curvatures[0] * di**2 / 2 - curvatures[1] * dj**2 / 2 - cross * di * dj


def random_maps(depth=12, size=(31, 47), seed=0):
    """Non-negative maps with many zeros, as after a ReLU."""
    torch.manual_seed(seed)
    return F.relu(torch.randn(depth, *size))


def dense_detections(maps):
    """Detection as the released code does it: every channel filtered everywhere, zeros beyond."""
    channels = maps[:, None]
    is_top = maps == maps.amax(dim=0)
    is_local = maps == F.max_pool2d(maps[None], 3, stride=1, padding=1)[0]
    kernels = {
        "ii": [[0, 1, 0], [0, -2, 0], [0, 1, 0]],
        "jj": [[0, 0, 0], [1, -2, 1], [0, 0, 0]],
        "ij": [[0.25, 0, -0.25], [0, 0, 0], [-0.25, 0, 0.25]],
        "i": [[0, -0.5, 0], [0, 0, 0], [0, 0.5, 0]],
        "j": [[0, 0, 0], [-0.5, 0, 0.5], [0, 0, 0]],
    }
    d = {
        name: F.conv2d(channels, torch.tensor(kernel, dtype=maps.dtype)[None, None], padding=1)[
            :, 0
        ]
        for name, kernel in kernels.items()
    }
    determinant, trace = d["ii"] * d["jj"] - d["ij"] ** 2, d["ii"] + d["jj"]
    is_corner = (determinant > 0) & (trace**2 / determinant <= EDGE_LIMIT)
    mask = is_top & is_local & is_corner
    step_i = -(d["jj"] * d["i"] - d["ij"] * d["j"]) / determinant
    step_j = -(d["ii"] * d["j"] - d["ij"] * d["i"]) / determinant
    cells = mask.any(dim=0).nonzero()
    channel = mask.int().argmax(dim=0)[cells[:, 0], cells[:, 1]]
    where = (channel, cells[:, 0], cells[:, 1])
    return cells, maps[where], torch.stack([step_i[where], step_j[where]], dim=1)


def hard_detections(maps, edge_threshold=5.0):
    """Mask (h, w) of the cells that are detected."""
    mask = torch.zeros(maps.shape[1:], dtype=torch.bool)
    mask[tuple(detect(maps, edge_threshold).cells.T)] = True
    return mask


def test_finds_exactly_the_planted_peak(dtype):
    maps = torch.zeros(4, 9, 11, dtype=dtype)
    maps[2, 3, 5] = 1.0
    assert hard_detections(maps).nonzero().tolist() == [[3, 5]]


@pytest.mark.parametrize("cell", [(0, 0), (0, 5), (8, 10), (4, 0), (8, 3)])
def test_a_peak_on_the_border_is_found_too(cell, dtype):
    maps = torch.zeros(4, 9, 11, dtype=dtype)
    maps[1, cell[0], cell[1]] = 1.0
    found = detect(maps)
    assert found.cells.tolist() == [list(cell)]
    assert found.steps.tolist() == [[0.0, 0.0]]


def test_several_peaks_come_in_order_of_rows_with_their_channels_values(dtype):
    maps = torch.zeros(3, 9, 11, dtype=dtype)
    maps[2, 7, 1], maps[0, 2, 8], maps[1, 2, 3] = 3.0, 2.0, 1.0
    found = detect(maps)
    assert found.cells.tolist() == [[2, 3], [2, 8], [7, 1]]
    assert found.values.tolist() == [1.0, 2.0, 3.0]


def test_a_peak_below_another_channel_is_none(dtype):
    maps = torch.zeros(2, 9, 11, dtype=dtype)
    maps[0, 3, 5] = 1.0
    maps[1] = 2.0  # highest everywhere, and flat
    assert not hard_detections(maps)[1:-1, 1:-1].any()


def test_a_highest_channel_that_is_higher_next_door_is_no_peak(dtype):
    maps = torch.zeros(2, 9, 11, dtype=dtype)
    maps[0, 3, 5], maps[0, 4, 6], maps[1, 4, 6] = 1.0, 1.5, 2.0
    assert hard_detections(maps).nonzero().tolist() == [[4, 6]]  # that of channel 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_flat_maps_have_none_but_in_corners_that_are_not_stable(value):
    found = detect(torch.full((4, 9, 11), value))  # zeros beyond make peaks of the corners
    assert {tuple(cell) for cell in found.cells.tolist()} <= {(0, 0), (0, 10), (8, 0), (8, 10)}
    assert not found.stable.any()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (0, 5)])
def test_maps_without_response_give_empty_detections(size):
    found = detect(torch.zeros(4, *size))
    assert found.cells.shape == found.steps.shape == (0, 2)
    assert found.values.shape == (0,)


def test_a_ridge_is_an_edge_and_no_detection():
    maps = torch.zeros(1, 9, 11)
    maps[0, 4] = 1.0
    maps[0, 4, 5] = 1.001  # and higher than its neighbours
    assert not hard_detections(maps)[:, 1:-1].any()


@pytest.mark.parametrize(("ratio", "is_found"), [(4.9, True), (5.1, False)])
@pytest.mark.parametrize("is_turned", [False, True])
def test_curvatures_may_differ_by_five_times_whatever_their_direction(ratio, is_found, is_turned):
    low, high = 0.01, 0.01 * ratio
    if is_turned:  # by 45 degrees: the mixed difference counts
        planted = paraboloid((4, 5), ((low + high) / 2,) * 2, cross=(high - low) / 2)
    else:
        planted = paraboloid((4, 5), (low, high))
    assert bool(hard_detections(planted[None])[4, 5]) is is_found
    assert hard_detections(planted[None], edge_threshold=5.2)[4, 5]


def test_a_saddle_is_an_edge():
    assert not is_not_edge(torch.tensor([[1.0, -1.0, 0.0], [-1.0, -1.0, 1.1]]), 5.0).any()


def test_of_two_equal_neighbours_none_is_stable():
    maps = torch.zeros(1, 9, 11)
    maps[0, 4, 5] = maps[0, 4, 6] = 1.0
    found = detect(maps)
    assert found.cells.tolist() == [[4, 5], [4, 6]]
    assert found.positions.tolist() == [[4.0, 5.5], [4.0, 5.5]]
    assert not found.stable.any()


@pytest.mark.parametrize("top", [(4.0, 5.0), (3.7, 5.4), (4.45, 4.8), (4.1, 5.49)])
@pytest.mark.parametrize("cross", [0.0, 0.003, -0.003])
def test_the_step_leads_to_the_top_of_a_paraboloid(top, cross):
    found = detect(paraboloid(top, (0.02, 0.03), cross=cross)[None])
    nearest = (found.cells == torch.tensor(top).round().long()).all(dim=1)
    assert nearest.sum() == 1
    assert torch.allclose(found.positions[nearest], torch.tensor([top]), atol=1e-4)
    assert found.stable[nearest].all()


def test_the_step_is_newtons():
    torch.manual_seed(0)
    roots = torch.randn(50, 2, 2, dtype=torch.float64)
    hessians = -roots @ roots.mT - 0.1 * torch.eye(2, dtype=torch.float64)
    gradients = torch.randn(50, 2, dtype=torch.float64)
    expected = torch.linalg.solve(hessians, -gradients)
    packed = torch.stack([hessians[:, 0, 0], hessians[:, 1, 1], hessians[:, 0, 1]], dim=1)
    assert torch.allclose(newton_steps(gradients, packed), expected)


def test_differences_are_exact_on_a_quadratic():
    patch = paraboloid((0.75, 1.5), (0.4, 0.2), (3, 3), cross=0.1).double()[None]
    # At the middle (1, 1): -a (1 - .75) - c (1 - 1.5) along rows, -b (1 - 1.5) - c (1 - .75) else.
    assert first_differences(patch)[0].tolist() == pytest.approx([-0.05, 0.075])
    assert second_differences(patch)[0].tolist() == pytest.approx([-0.4, -0.2, -0.1])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("step", "is_stable"), [(0.49, True), (0.5, False), (-0.49, True)])
def test_a_step_of_half_a_cell_in_either_axis_is_too_large(axis, step, is_stable):
    found = detect(paraboloid((4, 5), (0.1, 0.1))[None]).where(torch.tensor([True]))
    found.steps[0, axis] = step
    assert found.stable.tolist() == [is_stable]


@pytest.mark.parametrize("seed", range(3))
def test_candidates_alone_equal_dense_filters(seed):
    maps = random_maps(seed=seed)
    cells, values, steps = dense_detections(maps)
    found = detect(maps)
    assert len(cells) > 30
    assert found.cells.tolist() == cells.tolist()
    assert torch.equal(found.values, values)
    assert torch.allclose(found.steps, steps, rtol=1e-4, atol=1e-5)


def test_detection_does_not_depend_on_the_memory_layout():
    maps = random_maps()
    channels_last = maps.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(hard_detections(maps), hard_detections(channels_last))


def test_half_precision_maps_have_float32_steps():
    found = detect(random_maps().bfloat16())
    assert found.steps.dtype == found.values.dtype == torch.float32
    assert found.steps.isfinite().all()


def slow_soft_scores(maps, form):
    """Eq. 4-7 of the paper, cell by cell; exp(D / max) and ones beyond the border as released."""
    depth, height, width = maps.shape
    scale, beyond = (float(maps.max()), 1.0) if form == "released" else (1.0, 0.0)
    gamma = torch.zeros(height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            strongest = max(float(maps[k, i, j]) for k in range(depth))
            for k in range(depth):
                total = 0.0
                for a in range(i - 1, i + 2):
                    for b in range(j - 1, j + 2):
                        inside = 0 <= a < height and 0 <= b < width
                        total += math.exp(float(maps[k, a, b]) / scale) if inside else beyond
                alpha = math.exp(float(maps[k, i, j]) / scale) / total
                beta = float(maps[k, i, j]) / strongest if strongest else 0.0
                gamma[i, j] = max(gamma[i, j], alpha * beta)
    return gamma / gamma.sum()


FORMS = pytest.mark.parametrize("form", ["paper", "released"])


@FORMS
def test_soft_scores_equal_the_papers_formulas(form):
    maps = 40 * random_maps(depth=3, size=(5, 7))
    maps[:, 2, 3] = 0  # a cell without any response
    expected = slow_soft_scores(maps, form)
    found = soft_scores(maps[None], form)[0]
    assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-8)
    assert found[2, 3] == 0


def test_each_soft_score_by_hand():
    """Two channels on 1 x 2 cells: ln 2 and 0, ln 4 and ln 2."""
    two = math.log(2)
    maps = torch.tensor([[[two, 0.0]], [[2 * two, two]]])[None]
    assert torch.allclose(soft_local_max(maps), torch.tensor([[2 / 3, 1 / 3]]))  # either channel
    assert torch.allclose(ratio_to_max(maps)[0, :, 0], torch.tensor([[0.5, 0.0], [1.0, 1.0]]))
    assert torch.allclose(soft_scores(maps), torch.tensor([[[2 / 3, 1 / 3]]]))


@FORMS
def test_soft_scores_are_of_each_image_alone(form):
    batch = torch.stack([random_maps(size=(5, 7)), 100 * random_maps(size=(5, 7), seed=1)])
    together = soft_scores(batch, form)
    apart = torch.cat([soft_scores(maps[None], form) for maps in batch])
    assert torch.allclose(together, apart)
    assert torch.allclose(together.sum(dim=(1, 2)), torch.ones(2))


def test_released_soft_scores_do_not_depend_on_the_responses_scale():
    maps = random_maps(size=(5, 7))[None]
    found, scaled = (soft_scores(m, "released") for m in (maps, 1000 * maps))
    assert torch.allclose(found, scaled, rtol=1e-4)


def test_responses_beyond_the_reach_of_exp_have_finite_soft_scores():
    maps = (1e4 * random_maps(size=(5, 7)))[None].requires_grad_()
    scores = soft_scores(maps)
    assert scores.sum().item() == pytest.approx(1)
    (scores * torch.rand(5, 7)).sum().backward()
    assert maps.grad.isfinite().all()


@FORMS
def test_maps_without_any_response_have_soft_scores_of_zero(form):
    maps = torch.zeros(1, 4, 5, 7, requires_grad=True)
    scores = soft_scores(maps, form)
    assert torch.equal(scores, torch.zeros(1, 5, 7))
    scores.sum().backward()
    assert maps.grad.isfinite().all()


@FORMS
def test_soft_scores_peak_where_hard_detection_does(form):
    maps = torch.zeros(4, 9, 11)
    maps[2, 3, 5] = 1.0
    assert soft_scores(maps[None], form)[0].argmax() == 3 * 11 + 5
