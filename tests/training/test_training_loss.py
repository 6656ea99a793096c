"""The loss against hand-worked answers and against a slow loop written from Eq. 4-13."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training_form import training_maps

from d2_hloc.training.loss import (
    LossOptions,
    hardest_negatives,
    margin_terms,
    nearest_cells,
    pair_loss,
    ratio_terms,
    weighted_mean,
)
from d2_hloc.training.validation import measure_maps

pytestmark = pytest.mark.usefixtures("on_device")


def centres(cells):
    """Pixels (x, y) of the training form's cells (row, column)."""
    return torch.tensor(cells).flip(1).double() * 8 + 3.5


def slow_scores(maps, form):
    """Eq. 4-7, as graphs of single numbers."""
    depth, height, width = maps.shape
    scale, beyond = (maps.max(), 1.0) if form == "released" else (1.0, 0.0)
    gamma = {}
    for i in range(height):
        for j in range(width):
            products = []
            for k in range(depth):
                total = 0
                for a in range(i - 1, i + 2):
                    for b in range(j - 1, j + 2):
                        inside = 0 <= a < height and 0 <= b < width
                        total = total + (torch.exp(maps[k, a, b] / scale) if inside else beyond)
                alpha = torch.exp(maps[k, i, j] / scale) / total
                top = maps[:, i, j].max()
                products.append(alpha * (maps[k, i, j] / top if top > 0 else 0 * top))
            gamma[i, j] = max(products, key=Tensor.item)
    total = sum(gamma.values())
    return {cell: value / total for cell, value in gamma.items()}


def slow_loss(options, maps0, maps1, cells0, cells1):
    """Eq. 9-13, a correspondence and a cell at a time."""
    images = [F.relu(maps0), F.relu(maps1)]
    scores = [slow_scores(m, options.soft_detection) for m in images]
    sources = [maps0, maps1] if options.descriptors == "raw" else images
    units = [
        {
            (i, j): m[:, i, j] / m[:, i, j].norm() if m[:, i, j].any() else m[:, i, j] * 0
            for i in range(m.shape[1])
            for j in range(m.shape[2])
        }
        for m in sources
    ]
    total, norm = 0, 0
    for a, b in zip(cells0, cells1, strict=True):
        p = (units[0][a] - units[1][b]).norm()
        candidates = []
        for image, own, right in ((1, units[0][a], b), (0, units[1][b], a)):
            for cell, unit in units[image].items():
                apart = max(abs(cell[0] - right[0]), abs(cell[1] - right[1]))
                if apart > options.safe_radius:
                    candidates.append((own - unit).norm())
        n = min(candidates, key=Tensor.item)
        m = torch.clamp(options.margin + p**2 - n**2, min=0)
        if options.ratio is not None:
            m = m + options.ratio_weight * torch.clamp(p**2 - (options.ratio * n) ** 2, min=0)
        weight = scores[0][a] * scores[1][b]
        total, norm = total + weight * m, norm + weight
    return total / norm


VARIANTS = [
    LossOptions(safe_radius=1),
    LossOptions(safe_radius=1, soft_detection="released", descriptors="raw"),
    LossOptions(safe_radius=2, margin=0.7, ratio=0.9, ratio_weight=0.5),
]


def gradients(total, maps):
    for m in maps:
        m.grad = None
    total.backward()
    return [m.grad for m in maps]


@pytest.mark.parametrize("seed", range(10))
def test_loss_and_gradients_equal_the_papers_formulas(seed):
    options = VARIANTS[seed % 3]
    torch.manual_seed(seed)
    maps = [torch.randn(5, *size, dtype=torch.float64) for size in ((6, 7), (7, 5))]
    maps = [m.requires_grad_() for m in maps]
    sizes = [torch.tensor(m.shape[1:]) for m in maps]
    cells = [[tuple((torch.rand(2) * s).int().tolist()) for _ in range(4)] for s in sizes]
    expected = slow_loss(options, *maps, *cells)
    found, _ = pair_loss(options, *maps, *(centres(c) for c in cells))
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    for ours, theirs in zip(*(gradients(total, maps) for total in (found, expected)), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-10)


def test_a_pair_by_hand():
    """Three channels on 1 x 3 cells, radius 0: orthogonal cells, the last of image 1 turned."""
    half = math.sqrt(0.5)
    maps0 = torch.eye(3)[:, None]
    maps1 = torch.tensor([[1.0, 0, 0], [0, 1, half], [0, 0, half]])[:, None]
    loss, found = pair_loss(
        LossOptions(safe_radius=0),
        maps0,
        maps1,
        centres([[0, 0], [0, 2]]),
        centres([[0, 0], [0, 2]]),
    )
    # c0: p = 0, every other cell is orthogonal. c1: p^2 = 2 - sqrt 2, and cell 1 is as near.
    assert torch.allclose(found.positive, torch.tensor([0, 2 - math.sqrt(2)]), atol=1e-6)
    assert torch.allclose(found.negative, torch.tensor([2, 2 - math.sqrt(2)]), atol=1e-6)
    assert torch.allclose(loss, found.weights[1] / found.weights.sum())  # margins 0 and 1


def test_negatives_lie_beyond_the_safe_radius():
    """Along a row of cells whose likeness falls with the distance, the first beyond is hardest."""
    angles = torch.linspace(0, 1, 12)
    others = torch.stack([angles.cos(), angles.sin()])[:, None]
    own = others[:, 0, :1].T
    for radius in range(4):
        found = hardest_negatives(own, others, torch.tensor([[0, 0]]), radius)
        assert found.item() == pytest.approx(2 - 2 * math.cos(angles[radius + 1]), abs=1e-5)


def test_margin_and_ratio_by_hand():
    p, n = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([2.0, 1.0, 0.5])
    assert margin_terms(p, n).tolist() == [0.0, 0.5, 1.5]
    assert ratio_terms(p, n, math.sqrt(0.5)).tolist() == pytest.approx([0.0, 0.0, 0.75])


def test_scores_weigh_the_terms():
    assert weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([3e-6, 1e-6])).item() == 1.5


def test_cells_are_those_of_the_receptive_fields_centres(backbone):
    """A dot in a crop moves the training form's maps most at the cell that pixels.py names."""
    crop = torch.full((1, 3, 128, 128), 0.5)
    dotted = crop.clone()
    dotted[:, :, 40:48, 72:80] = 1  # the pixels of cell (5, 9), centre (75.5, 43.5)
    with torch.no_grad():
        change = (training_maps(backbone, dotted) - training_maps(backbone, crop)).norm(dim=1)[0]
    row, column = divmod(int(change.argmax()), 16)
    cells = nearest_cells(torch.tensor([[75.5, 43.5], [79.4, 47.4], [79.6, 39.4]]), change[None])
    assert (row, column) == (5, 9)
    assert cells.tolist() == [[5, 9], [5, 9], [4, 10]]


def test_positions_on_the_rim_stay_inside():
    cells = nearest_cells(torch.tensor([[-0.4, 63.4], [63.4, 0.0]]), torch.zeros(1, 8, 8))
    assert cells.tolist() == [[7, 0], [0, 7]]


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("descriptors", ["relu", "raw"])
def test_dead_cells_flat_maps_and_no_correspondence_have_finite_gradients(form, descriptors):
    options = LossOptions(soft_detection=form, descriptors=descriptors, ratio=0.9)
    torch.manual_seed(0)
    partly_dead = torch.randn(8, 12, 12)
    partly_dead[:, 3:6] = 0
    cells = centres([[3, 3], [4, 4], [9, 9]]).float()
    for maps, xy in (
        (partly_dead, cells),
        (torch.zeros(8, 12, 12), cells),
        (-torch.ones(8, 12, 12), cells),
        (torch.ones(8, 12, 12), cells),
        (partly_dead, cells[:0]),
    ):
        maps0, maps1 = (maps.clone().requires_grad_() for _ in range(2))
        loss, _ = pair_loss(options, maps0, maps1, xy, xy)
        loss.backward()
        assert loss.isfinite()
        assert maps0.grad.isfinite().all()
        assert maps1.grad.isfinite().all()
        if not len(xy):
            assert loss == 0
            assert not maps0.grad.any()


def test_a_wrong_option_says_what_is_possible():
    with pytest.raises(ValueError, match=r"ratio must be from 0.001 to 1, not 1.2"):
        LossOptions(ratio=1.2)


def test_accuracy_by_hand():
    """Four cells in a row, radius 0; image 1's last two are exchanged."""
    maps0 = torch.eye(4)[:, None].repeat_interleave(3, dim=2)  # each thrice: tolerance is 1
    maps1 = torch.cat([maps0[:, :, :6], maps0[:, :, 9:], maps0[:, :, 6:9]], dim=2)
    xy = torch.tensor([[3.5 + 8 * cell, 3.5] for cell in (1, 4, 7, 10)])
    loss, accuracy, detected = measure_maps(
        LossOptions(safe_radius=1), maps0, maps1, xy, xy
    ).tolist()
    assert accuracy == 0.5
    assert 0 < detected < 1
    assert loss > 0
    perfect = measure_maps(LossOptions(safe_radius=1), maps0, maps0, xy, xy).tolist()
    assert perfect == pytest.approx([0, 1, 1], abs=1e-6)
