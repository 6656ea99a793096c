"""Nearest neighbours against brute force, in blocks and with every rule."""

import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from random_tensors import random_normal, random_order, random_unit

from d2_hloc.matching import neighbours
from d2_hloc.matching.nearest import match_descriptors
from d2_hloc.matching.options import MatchingOptions

pytestmark = pytest.mark.usefixtures("on_device")


def unit(count, depth=16, seed=0):
    return random_unit(count, depth, seed=seed)


def nearby(descriptors, deviation, seed=1):
    """The same descriptors with noise."""
    noise = random_normal(*descriptors.shape, seed=seed)
    return F.normalize(descriptors + deviation * noise, dim=1)


def brute_force(d0, d1, mutual=True, ratio=None, distance=None):
    """The rules read from their definition, with distances in double precision, row by row."""
    distances = torch.cdist(d0.double(), d1.double(), compute_mode="donot_use_mm_for_euclid_dist")

    def choice(row):
        order = row.argsort()
        first, second = row[order[0]], row[order[1]] if len(row) > 1 else torch.inf
        is_near = distance is None or first <= distance
        is_distinct = ratio is None or first <= ratio * second
        return int(order[0]) if is_near and is_distinct else None

    forward, backward = [choice(r) for r in distances], [choice(r) for r in distances.T]
    return [
        [i, j] for i, j in enumerate(forward) if j is not None and (not mutual or backward[j] == i)
    ]


RULES = [
    {},
    {"mutual": False},
    {"ratio": 0.9},
    {"ratio": 0.9, "mutual": False},
    {"distance": 0.6},
    {"distance": 0.6, "ratio": 0.6},
]


def options_of(rule):
    return MatchingOptions(
        mutual=rule.get("mutual", True),
        ratio_threshold=rule.get("ratio"),
        distance_threshold=rule.get("distance"),
    )


@pytest.fixture(scope="module")
def overlapping():
    """Two images that share 60 of 100 and 130 descriptors, with noise and in another order."""
    shared = unit(60)
    order = random_order(130, seed=3)
    d0 = torch.cat([unit(40, seed=5), shared])
    d1 = torch.cat([nearby(shared, 0.12), unit(70, seed=7)])[order]
    return d0, d1


def test_planted_descriptors_are_found_in_another_order(dtype):
    d0, order = unit(50), random_order(50, seed=0)
    found = match_descriptors(d0.to(dtype), nearby(d0, 0.01)[order].to(dtype))
    assert found.pairs[:, 0].tolist() == list(range(50))
    assert torch.equal(order[found.pairs[:, 1]], torch.arange(50))
    assert found.scores.min() > 0.99


@pytest.mark.parametrize("rule", RULES)
def test_equals_brute_force(overlapping, rule):
    found = match_descriptors(*overlapping, options_of(rule))
    expected = brute_force(*overlapping, **rule)
    assert 10 < len(expected) <= len(overlapping[0])
    assert found.pairs.tolist() == expected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_blocks_change_nothing(overlapping, rule, rows, monkeypatch):
    whole = match_descriptors(*overlapping, options_of(rule))
    monkeypatch.setattr(neighbours, "CACHED_BYTES", rows * 4 * 130)
    found = match_descriptors(*overlapping, options_of(rule))
    assert found.pairs.tolist() == whole.pairs.tolist()
    torch.testing.assert_close(found.scores, whole.scores)


def test_rules_reject_something_each(overlapping):
    counts = [len(match_descriptors(*overlapping, options_of(rule))) for rule in RULES]
    assert len(set(counts)) == len(counts)


def at_angles(*degrees):
    """Unit descriptors in the plane."""
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_the_ratio_is_asked_of_both_directions():
    # 0 is distinct for the first image; for its only neighbour, 10 and -11 are nearly as far.
    d0, d1 = at_angles(10.0, -11.0), at_angles(0.0, 170.0)
    is_one_way = MatchingOptions(mutual=False, ratio_threshold=0.5)
    assert match_descriptors(d0, d1, is_one_way).pairs.tolist() == [[0, 0], [1, 0]]
    assert len(match_descriptors(d0, d1, MatchingOptions(ratio_threshold=0.5))) == 0
    assert len(match_descriptors(d1, d0, MatchingOptions(ratio_threshold=0.5))) == 0
    assert match_descriptors(d0, d1).pairs.tolist() == [[0, 0]]


@pytest.mark.parametrize(("ratio", "count"), [(0.51, 1), (0.49, 0)])
def test_the_ratio_is_of_distances_and_not_of_their_squares(ratio, count):
    near, far = torch.tensor(10.0), torch.tensor(20.05)  # degrees; chords are nearly in proportion
    d0, d1 = at_angles(0.0), at_angles(float(near), -float(far))
    d0 = torch.cat([d0, at_angles(180.0)])  # one descriptor alone is asked for no ratio
    found = match_descriptors(d0, d1, MatchingOptions(mutual=False, ratio_threshold=ratio))
    assert (found.pairs[:, 0] == 0).sum() == count


@pytest.mark.parametrize(("threshold", "count"), [(0.518, 1), (0.517, 0)])
def test_the_distance_is_euclidean(threshold, count):
    d0, d1 = at_angles(0.0), at_angles(30.0)  # 2 sin 15 degrees = 0.51764 apart
    options = MatchingOptions(distance_threshold=threshold)
    assert len(match_descriptors(d0, d1, options)) == count


@pytest.mark.parametrize("counts", [(1, 5), (5, 1), (1, 1)])
def test_a_single_descriptor_matches_without_a_ratio(counts):
    d0, d1 = unit(counts[0]), unit(counts[1], seed=1)
    found = match_descriptors(d0, d1, MatchingOptions(ratio_threshold=0.01))
    assert found.pairs.tolist() == brute_force(d0, d1)
    assert len(found) == 1


@pytest.mark.parametrize("counts", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("rule", RULES)
def test_no_descriptors_have_no_matches(counts, rule):
    found = match_descriptors(unit(counts[0]), unit(counts[1]), options_of(rule))
    assert found.pairs.shape == (0, 2)
    assert found.pairs.dtype == torch.int64
    assert found.scores.shape == (0,)


def test_fewer_matches_than_the_least_are_none(overlapping):
    count = len(match_descriptors(*overlapping))
    assert len(match_descriptors(*overlapping, MatchingOptions(min_matches=count))) == count
    assert len(match_descriptors(*overlapping, MatchingOptions(min_matches=count + 1))) == 0


def test_of_equal_descriptors_the_first_is_taken_whatever_the_blocks(monkeypatch):
    d0, d1 = unit(20), unit(20).repeat(3, 1)
    for rows in (1000, 3, 1):
        monkeypatch.setattr(neighbours, "CACHED_BYTES", rows * 4 * 60)
        assert match_descriptors(d0, d1).pairs.tolist() == [[i, i] for i in range(20)]
        assert match_descriptors(d1, d0).pairs.tolist() == [[i, i] for i in range(20)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equal_descriptors_are_not_distinct(dtype):
    """Their distances are 0 but for rounding, and no rounding may decide."""
    d0 = unit(200, depth=64).to(dtype)
    found = match_descriptors(d0, d0.repeat(2, 1), MatchingOptions(ratio_threshold=0.9))
    assert len(found) == 0


def test_an_image_matches_itself_completely(dtype):
    d0 = unit(200, depth=64).to(dtype)
    found = match_descriptors(d0, d0, MatchingOptions(ratio_threshold=0.5, distance_threshold=0.1))
    assert found.pairs.tolist() == [[i, i] for i in range(200)]
    assert 0.99 < found.scores.min() <= found.scores.max() <= 1


def test_half_precision_is_widened(overlapping):
    d0, d1 = (d.half() for d in overlapping)
    found = match_descriptors(d0, d1)
    assert found.scores.dtype == torch.float32
    assert found.pairs.tolist() == brute_force(d0, d1)


def test_scores_rise_with_similarity_from_0_to_1():
    for degrees, expected in ((0.0, 1.0), (90.0, 0.5), (180.0, 0.0)):
        found = match_descriptors(at_angles(0.0), at_angles(degrees))
        assert found.scores.tolist() == pytest.approx([expected], abs=1e-6)


def test_descriptors_are_left_as_they_were(overlapping):
    d0, d1 = (d.clone() for d in overlapping)
    match_descriptors(d0, d1)
    assert torch.equal(d0, overlapping[0])
    assert torch.equal(d1, overlapping[1])


def test_descriptors_of_two_widths_are_refused():
    with pytest.raises(
        ValueError, match="of 512 and 128 numbers cannot be matched: they come from"
    ):
        match_descriptors(unit(5, 512), unit(5, 128))


@pytest.mark.parametrize("name", ["ratio_threshold", "distance_threshold"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_thresholds_are_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} must be from .* not {value}"):
        MatchingOptions(**{name: value})


def test_memory_does_not_grow_with_the_product_of_the_counts():
    """All similarities of 20,000 x 20,000 would be 1.5 GiB."""
    code = """
        import resource, torch
        from d2_hloc import match_descriptors

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # MiB

        torch.manual_seed(0)
        descriptors = torch.nn.functional.normalize(torch.randn(20_000, 8), dim=1)
        match_descriptors(descriptors[:100], descriptors[:100])
        before = peak()
        assert len(match_descriptors(descriptors, descriptors.flip(0))) > 19_000
        print(peak() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 700
