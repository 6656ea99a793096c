"""Features of several pyramids are kept, and matched, apart from each other."""

from dataclasses import replace

import pytest
import torch
from random_tensors import random_uniform, random_unit

from d2_hloc.core.structs import Features
from d2_hloc.features.compression import compress
from d2_hloc.features.options import CompressionOptions
from d2_hloc.features.pyramids import match_by_pyramid, prepare_by_pyramid
from d2_hloc.files.checked_arrays import StorageError
from d2_hloc.files.features_h5 import features_record, read_features, read_matches
from d2_hloc.files.staged_h5 import Staged, Value
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.nearest import match_descriptors
from d2_hloc.matching.options import MatchingOptions

SIZE = (300, 200)
PAIR = ("a.jpg", "b.jpg")


def features(of, seed=0):
    """Ten features that both pyramids have, in the order of the list `of` of pyramids."""
    of = torch.tensor(of)
    row = torch.cat([(of[:k] == of[k]).sum()[None] for k in range(len(of))])
    return Features(
        keypoints=random_uniform(10, 2, seed=seed).cpu()[row] * 190,
        scores=torch.ones(len(of)),
        descriptors=random_unit(10, 512, seed=seed).cpu()[row],
        scales=torch.ones(len(of)),
        pyramids=of,
    )


FIRST = features([0] * 10 + [1] * 10)
MIXED = features([1, 0] * 10)


def nearest(image0, image1):
    prepared = (prepare_by_pyramid(f, lambda part: part.descriptors) for f in (image0, image1))
    return match_by_pyramid(match_descriptors, *prepared)


@pytest.mark.usefixtures("on_device")
def test_matches_stay_within_their_pyramid():
    found = nearest(FIRST, MIXED)
    index0, index1 = found.pairs.T.cpu()
    assert sorted(index0.tolist()) == sorted(index1.tolist()) == list(range(20))
    assert torch.equal(FIRST.pyramids[index0], MIXED.pyramids[index1])
    assert torch.equal(FIRST.descriptors[index0], MIXED.descriptors[index1])


def test_a_pyramid_that_one_image_lacks_matches_nothing():
    only = MIXED.chosen((MIXED.pyramids == 1).nonzero()[:, 0])
    assert (FIRST.pyramids[nearest(FIRST, only).pairs[:, 0]] == 1).all()
    other = replace(only, pyramids=torch.full((10,), 7))
    assert nearest(FIRST, other).pairs.shape == (0, 2)


def test_images_without_features_or_pyramids():
    none = FIRST.chosen(torch.empty(0, dtype=torch.int64))
    assert len(prepare_by_pyramid(none, lambda part: part.descriptors)) == 0
    assert len(nearest(none, FIRST)) == len(nearest(FIRST, none)) == 0
    plain = replace(FIRST.chosen(torch.arange(10)), pyramids=None)
    assert nearest(plain, plain).pairs.tolist() == [[k, k] for k in range(10)]


def written(path, *images, **changed):
    with Staged(path, {"feature": "d2net-fine"}, "keypoints") as staged:
        for name, one in zip(PAIR, images, strict=True):
            staged.add(name, features_record(one, SIZE, 1.0, "float32") | changed)
    return path


def test_files_keep_pyramids_through_compression_and_matching(tmp_path):
    path = written(tmp_path / "features.h5", FIRST, MIXED)
    smaller = tmp_path / "smaller.h5"
    compress(CompressionOptions(dimensions=64), path, smaller)
    for file in (path, smaller):
        assert torch.equal(read_features(file, "b.jpg").pyramids, MIXED.pyramids)
        options = MatchingOptions(ratio_threshold=0.9)  # a twin of the other pyramid would fail it
        match(options, [PAIR], file, tmp_path / f"matches_{file.name}")
        matches = read_matches(tmp_path / f"matches_{file.name}", *PAIR)
        assert len(matches) == 20
        index0, index1 = matches.pairs.T
        assert torch.equal(FIRST.pyramids[index0], MIXED.pyramids[index1])


def test_too_few_pyramids_are_an_error_that_names_the_image(tmp_path):
    cut = {"pyramids": Value(torch.zeros(3).numpy())}
    path = written(tmp_path / "features.h5", FIRST, MIXED, **cut)
    with pytest.raises(StorageError, match=r"a\.jpg has 20 keypoints.*20 scales and 3 pyramids"):
        read_features(path, "a.jpg")
