"""The learned matcher's matches grow where they agree, and have to be supported where asked."""

import math

import pytest
import torch
import torch.nn.functional as F
from random_tensors import random_module, random_normal, random_uniform, random_unit
from torch.testing import assert_close

from d2_hloc.matching.grown_glue import GrownGlue
from d2_hloc.matching.lightglue import Glue, GlueShape, save_glue
from d2_hloc.matching.options import MatchingOptions

pytestmark = pytest.mark.usefixtures("on_device")

SIZE = (320, 320)
SHIFT = 9.0, -5.0


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network that takes soft mutual neighbours: untrained, with unlike things far apart."""
    glue = random_module(lambda: Glue(GlueShape(width=64, layers=1)), seed=0)
    with torch.no_grad():
        glue.net.log_assignment[-1].final_proj.weight.mul_(2)
        glue.net.log_assignment[-1].matchability.bias.fill_(4)
    return str(save_glue(tmp_path_factory.mktemp("glue") / "glue.safetensors", glue))


def planted(seed=0):
    """Keypoints of an image and of a shifted one; two in three look like another one far away."""
    xy0 = random_uniform(300, 2, seed=seed) * 280 + 20
    kinds = random_unit(300, 256, seed=seed)
    kinds[100:200] = kinds[200:300]
    noise = random_normal(2, 300, 256, seed=seed + 1) * 0.3 / math.sqrt(256)
    descriptors = F.normalize(kinds + noise, dim=-1)
    xy1 = xy0 + torch.tensor(SHIFT) + random_normal(300, 2, seed=seed + 2)
    return (xy0, descriptors[0]), (xy1, descriptors[1])


def matched(weights, images, **options):
    matcher = GrownGlue(MatchingOptions(matcher="lightglue", weights=weights, **options))
    prepared = [matcher.prepare(xy, descriptors, SIZE) for xy, descriptors in images]
    return matcher, prepared, matcher(*prepared)


def shares(found):
    is_right = (found.pairs[:, 0] == found.pairs[:, 1]).float()
    return int(is_right.sum()), float(is_right.mean())


def test_matches_grow_to_what_the_network_could_not_tell_apart(weights):
    images = planted()
    plain, _ = shares(matched(weights, images, min_support=0.0)[2])
    matcher, prepared, found = matched(weights, images)
    count, share = shares(found)
    assert plain < 230 < 280 < count
    assert share > 0.98
    assert len(found.pairs[:, 0].unique()) == len(found.pairs[:, 1].unique()) == len(found)
    scores = matcher.glue.log_scores(*(p.points for p in prepared)).exp()
    assert_close(found.scores, scores[found.pairs[:, 0], found.pairs[:, 1]])


def test_matches_have_the_support_that_is_asked_for(weights):
    (xy0, d0), (xy1, d1) = planted()
    moved = xy1.clone()
    moved[:40] = random_uniform(40, 2, seed=5) * 320
    images = (xy0, d0), (moved, d1)
    some, many = (len(matched(weights, images, min_support=s)[2]) for s in (30.0, 175.0))
    assert 0 < many < some
    pairs = matched(weights, images, min_support=30.0)[2].pairs
    of_moved = pairs[:, 0][pairs[:, 0] == pairs[:, 1]] < 40
    assert int(of_moved.sum()) <= 2  # one may have come near its place


def test_matches_that_stand_alone_stay(weights):
    (xy0, d0), (xy1, d1) = planted()
    moved = xy1.clone()
    moved[:10] = random_uniform(10, 2, seed=5) * 320
    pairs = matched(weights, ((xy0, d0), (moved, d1)))[2].pairs
    alone = matched(weights, ((xy0, d0), (moved, d1)), min_support=30.0)[2].pairs
    is_alone = (pairs[:, 0] < 10) & (pairs[:, 0] == pairs[:, 1])
    assert int(is_alone.sum()) > 5
    assert not ((alone[:, 0] < 10) & (alone[:, 0] == alone[:, 1])).any()
    assert len(pairs[:, 0].unique()) == len(pairs[:, 1].unique()) == len(pairs)


def test_without_agreement_the_networks_matches_stay_unless_support_is_asked_for(weights):
    (xy0, d0), (_, d1) = planted()
    anywhere = random_uniform(300, 2, seed=7) * 320
    images = (xy0, d0), (anywhere, d1)
    plain = matched(weights, images, min_support=0.0)[2]
    assert matched(weights, images)[2].pairs.tolist() == plain.pairs.tolist()
    assert len(matched(weights, images, min_support=60.0)[2]) < 0.1 * len(plain)


def test_takes_images_without_features(weights):
    image = planted()[0]
    none = torch.empty(0, 2), torch.empty(0, 256)
    assert len(matched(weights, (none, image))[2]) == 0
    assert len(matched(weights, (image, none), min_support=60.0)[2]) == 0


def test_an_image_that_is_stored_larger_is_matched_alike(weights):
    (xy0, d0), (xy1, d1) = planted()
    matcher, _, expected = matched(weights, ((xy0, d0), (xy1, d1)))
    size, scales = (SIZE[0] * 4, SIZE[1] * 4), torch.full((300,), 4.0)
    larger = [matcher.prepare(xy * 4, d, size, scales) for xy, d in ((xy0, d0), (xy1, d1))]
    assert matcher(*larger).pairs.tolist() == expected.pairs.tolist()
