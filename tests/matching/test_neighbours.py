"""Candidates from coarse similarities, and what float32 decides among them."""

import sys

import pytest
import torch
import torch.nn.functional as F
from random_tensors import random_normal, random_unit

from d2_hloc.matching import neighbours
from d2_hloc.matching.neighbours import nearest_neighbours
from d2_hloc.matching.prepared import coarse_dtype, prepare_descriptors

pytestmark = pytest.mark.usefixtures("on_device")

MODULE = sys.modules["d2_hloc.matching.prepared"]


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def coarse(request, monkeypatch):
    """Whatever this machine is faster in."""
    monkeypatch.setattr(MODULE, "coarse_dtype", lambda: request.param)
    return request.param


def unit(count, seed=0):
    return random_unit(count, 64, seed=seed)


def crowded(count, deviation, seed=0):
    """Descriptors around a few centres, nearer to each other than bfloat16 can tell."""
    centres = unit(5, seed=9)[torch.arange(count) % 5]
    return F.normalize(centres + deviation * random_normal(count, 64, seed=seed), dim=1)


def check(found, similarities):
    """Against all similarities (N0, N1) in double precision."""
    best = similarities.topk(2, dim=1).values
    taken = similarities.gather(1, found.indices[:, None])[:, 0]
    torch.testing.assert_close(taken, best[:, 0], atol=5e-7, rtol=0)
    torch.testing.assert_close(found.first.double(), best[:, 0], atol=5e-7, rtol=0)
    torch.testing.assert_close(found.second.double(), best[:, 1], atol=5e-7, rtol=0)


SETS = {
    "far apart": lambda: (unit(300), unit(170, seed=1)),
    "crowded": lambda: (crowded(300, 0.002), crowded(170, 0.002, seed=1)),
    "opposite": lambda: (crowded(300, 0.002), -crowded(170, 0.002, seed=1).abs()),
    "one beside many": lambda: (unit(1), unit(170, seed=1)),
    "longer than 1": lambda: (3 * crowded(300, 0.01), 2 * crowded(170, 0.01, seed=1)),
}


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("name", SETS)
def test_both_neighbours_are_those_of_double_precision(name, rows, monkeypatch):
    d0, d1 = SETS[name]()
    for bound in ("CACHED_BYTES", "BLOCK_BYTES"):  # of the processor, and of a GPU
        monkeypatch.setattr(neighbours, bound, rows * 4 * len(d1))
    forward, backward = nearest_neighbours(prepare_descriptors(d0), prepare_descriptors(d1))
    scale = float(d0.norm(dim=1).max() * d1.norm(dim=1).max())  # roundings are relative
    similarities = d0.double() @ d1.double().T / scale
    for found, expected in ((forward, similarities), (backward, similarities.T)):
        if expected.shape[1] == 1:
            assert found.second.eq(-torch.inf).all()
            continue
        found = neighbours.Neighbours(
            indices=found.indices, first=found.first / scale, second=found.second / scale
        )
        check(found, expected)


def test_rounding_alone_would_find_others(monkeypatch):
    """The planted sets are hard: bfloat16's own nearest are not the right ones."""
    d0, d1 = SETS["crowded"]()
    similarities = d0.double() @ d1.double().T
    rounded = (d0.bfloat16() @ d1.bfloat16().T).float().argmax(dim=1)
    assert (rounded != similarities.argmax(dim=1)).float().mean() > 0.1
    monkeypatch.setattr(MODULE, "coarse_dtype", lambda: torch.bfloat16)
    found, _ = nearest_neighbours(
        prepare_descriptors(d0), prepare_descriptors(d1), with_second=False
    )
    assert (found.indices == similarities.argmax(dim=1)).float().mean() > 0.98
    taken = similarities.gather(1, found.indices[:, None])[:, 0]
    torch.testing.assert_close(taken, similarities.amax(dim=1), atol=5e-7, rtol=0)


def test_no_error_is_larger_than_its_bound(monkeypatch):
    monkeypatch.setattr(MODULE, "coarse_dtype", lambda: torch.bfloat16)
    for made in SETS.values():
        d0, d1 = made()
        set0, set1 = prepare_descriptors(d0), prepare_descriptors(d1)
        coarse_found = (set0.coarse @ set1.coarse.T).double()
        errors = (coarse_found - d0.double() @ d1.double().T).abs()
        assert 0 < errors.max() < set0.error_bound(set1)
        assert set0.error_bound(set1) < 0.012 * d0.norm(dim=1).max() * d1.norm(dim=1).max()


@pytest.mark.usefixtures("coarse")
def test_descriptors_that_are_all_alike_are_compared_one_and_all(monkeypatch):
    alike = unit(1).repeat(400, 1)
    on_processor = prepare_descriptors(alike.cpu())
    assert neighbours._candidates(on_processor, on_processor, 2) is None
    for found in nearest_neighbours(prepare_descriptors(alike), prepare_descriptors(alike)):
        assert found.indices.eq(0).all()
        torch.testing.assert_close(found.second, found.first)
    d0, d1 = SETS["crowded"]()
    monkeypatch.setattr(neighbours, "MOST_CANDIDATES", 0)
    similarities = d0.double() @ d1.double().T
    forward, backward = nearest_neighbours(prepare_descriptors(d0), prepare_descriptors(d1))
    check(forward, similarities)
    check(backward, similarities.T)


@pytest.mark.usefixtures("coarse")
def test_a_descriptor_that_is_no_number_leaves_the_others_alone():
    d0, d1 = unit(30), unit(30).flip(0)
    d1 = torch.cat([d1, torch.full((1, 64), torch.nan)])
    _, backward = nearest_neighbours(prepare_descriptors(d0), prepare_descriptors(d1))
    assert backward.indices[:30].tolist() == list(range(29, -1, -1))


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"),
    [
        (True, True, torch.bfloat16),
        (False, True, torch.bfloat16),
        (False, False, torch.float32),
    ],
)
def test_bfloat16_is_taken_where_the_processor_multiplies_it(amx, avx512, expected, monkeypatch):
    can = {"amx_bf16": amx, "avx512_bf16": avx512}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    assert coarse_dtype() == expected


def test_float32_is_taken_where_torch_cannot_be_asked(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert coarse_dtype() == torch.float32


@pytest.mark.usefixtures("coarse")
def test_the_memory_counts_both_precisions(coarse):
    count = 6 if coarse == torch.bfloat16 else 4
    assert prepare_descriptors(unit(10).cpu()).nbytes == count * 10 * 64
