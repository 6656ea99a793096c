"""Matches of two levels: fine cells are compared within coarse ones that match."""

import pytest
import torch
import torch.nn.functional as F

from d2_hloc.core.structs import Features
from d2_hloc.files import features_h5
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.matching.hierarchical import match_hierarchical, split_levels
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.options import MatchingOptions

pytestmark = pytest.mark.usefixtures("on_device")

OPTIONS = MatchingOptions(matcher="hierarchical")


def joined(cells, parts):
    """Descriptors of both levels, (4 M, D + 256)."""
    return F.normalize(torch.cat([cells.repeat_interleave(4, dim=0), parts.flatten(0, 1)], dim=1))


@pytest.fixture
def levels():
    torch.manual_seed(0)
    cells = F.normalize(torch.randn(6, 16))
    parts = F.normalize(torch.randn(6, 4, 256), dim=2)
    return cells, parts


def test_parts_are_found_in_the_cells_that_match(levels):
    cells, parts = levels
    order, within = torch.tensor([3, 0, 5, 1, 2, 4]), torch.tensor([2, 0, 3, 1])
    image0 = split_levels(joined(cells, parts))
    image1 = split_levels(joined(cells[order], parts[order][:, within]))
    found = match_hierarchical(OPTIONS, image0, image1)
    assert (len(image0), len(found)) == (24, 24)
    expected = {4 * int(order[m]) + int(within[k]): 4 * m + k for m in range(6) for k in range(4)}
    assert dict(found.pairs.tolist()) == expected
    assert found.scores.min() > 0.999


def test_a_part_like_one_of_another_cell_is_not_its_match(levels):
    cells, parts = levels
    image0 = split_levels(joined(cells, parts))
    image1 = split_levels(joined(cells, parts.flip(0)))  # parts tell of other cells than these
    found = match_hierarchical(OPTIONS, image0, image1).pairs
    assert torch.equal(found[:, 0] // 4, found[:, 1] // 4)


def test_only_mutual_neighbours_match(levels):
    cells, parts = levels
    same = parts.clone()
    same[:, 1] = same[:, 0]  # of two alike, one is matched
    found = match_hierarchical(
        OPTIONS, split_levels(joined(cells, parts)), split_levels(joined(cells, same))
    )
    assert len(torch.unique(found.pairs[:, 1])) == len(found) < 24
    few = MatchingOptions(matcher="hierarchical", min_matches=25)
    both = split_levels(joined(cells, parts))
    assert len(match_hierarchical(few, both, both)) == 0


def test_no_features_have_no_matches():
    none = split_levels(torch.empty(0, 384))
    assert len(match_hierarchical(OPTIONS, none, none)) == 0


def test_features_of_one_level_are_refused_by_name(tmp_path):
    path = tmp_path / "features.h5"
    with Staged(path, {"feature": "sift"}, "keypoints") as staged:
        for name in "ab":
            features = Features(
                keypoints=torch.rand(8, 2),
                scores=torch.ones(8),
                descriptors=F.normalize(torch.rand(8, 128)),
                scales=torch.ones(8),
            )
            staged.add(name, features_h5.features_record(features, (64, 48), 1.0, "float16"))
    with pytest.raises(ValueError, match=r"features.h5: [ab]: 8 descriptors of 128 .* densesfm"):
        match(OPTIONS, [("a", "b")], path, tmp_path / "matches.h5")
