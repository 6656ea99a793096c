"""Which images are matched with which, and what cannot be paired, said before the work."""

import pytest

from d2_hloc.matching import choose_pairs
from d2_hloc.matching.choose_pairs import PairsOptions


def test_many_images_without_global_descriptors_are_refused_at_once():
    options = PairsOptions(max_exhaustive=10)
    choose_pairs.check(options, "sift", 10)
    choose_pairs.check(options, "d2net", 11)
    with pytest.raises(ValueError, match="11 images are paired by retrieval, and sift has no"):
        choose_pairs.check(options, "sift", 11)
    with pytest.raises(ValueError, match="retrieval, and sift has no global descriptors"):
        choose_pairs.check(PairsOptions(method="retrieval"), "sift", 3)
    choose_pairs.check(PairsOptions(method="exhaustive"), "sift", 1000)


def test_a_missing_list_is_named_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt: cannot be read"):
        choose_pairs.check(PairsOptions(file=tmp_path / "none.txt"), "d2net", 3)


@pytest.mark.parametrize("name", ["count", "max_exhaustive"])
def test_counts_are_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, not 0"):
        PairsOptions(**{name: 0})
