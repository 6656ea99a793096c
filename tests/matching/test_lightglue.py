"""The learned matcher: kornia's network to the number, padding that changes nothing, its files."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from random_tensors import random_module, random_normal, random_order, random_uniform, random_unit
from torch.testing import assert_close

from d2_hloc.core.orientation import to_stored, upright_size
from d2_hloc.core.structs import Features
from d2_hloc.features import projection
from d2_hloc.features.options import BUNDLED
from d2_hloc.files import features_h5
from d2_hloc.files.provenance import file_sha256
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.matching import lightglue
from d2_hloc.matching.lightglue import (
    Glue,
    GlueShape,
    LightGlue,
    Points,
    load_glue,
    partners,
    save_glue,
)
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.network.weights.catalogue import WeightsError

pytestmark = pytest.mark.usefixtures("on_device")

TINY = GlueShape(input_width=256, width=32, heads=2, layers=2)


def shaken(shape=TINY, seed=0):
    """A network with context: all its weights moved at random."""

    def make():
        glue = Glue(shape).eval().requires_grad_(False)
        for weight in glue.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        return glue

    return random_module(make, seed)


def points(count, batch=1, seed=0):
    return Points(
        descriptors=random_unit(batch, count, 256, seed=seed),
        positions=1.8 * random_uniform(batch, count, 2, seed=seed) - 0.9,
    )


@pytest.fixture
def weights(tmp_path):
    return save_glue(tmp_path / "glue.safetensors", shaken())


def test_is_kornias_network_to_the_number():
    scores = shaken()(points(31), points(17, seed=1)).log_scores()
    with torch.device("cpu"):  # on a GPU, kornia's own attention is in half precision
        net = shaken().net
        net.conf.depth_confidence = net.conf.width_confidence = -1
        data = {
            f"image{k}": {
                "keypoints": p.positions * 32 + 32,
                "descriptors": p.descriptors,
                "image_size": torch.tensor([[64.0, 64.0]]),
            }
            for k, p in enumerate((points(31), points(17, seed=1)))
        }
        expected = net(data)
    assert_close(scores.cpu(), expected["log_assignment"][:, :-1, :-1], atol=1e-4, rtol=1e-4)
    pairs, found = partners(scores[0], 0.1)
    assert pairs.tolist() == expected["matches"][0].tolist()
    assert_close(found.cpu(), expected["scores"][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [TINY, replace(TINY, heads=1), replace(TINY, layers=1)])
def test_padding_changes_nothing(shape):
    glue, first, second = shaken(shape), points(13), points(9, seed=1)
    expected = glue(first, second).log_scores()
    padded = []
    for k, (real, more) in enumerate(((first, 20), (second, 4))):
        noise = points(more, seed=k + 5)
        padded.append(
            Points(
                descriptors=torch.cat([real.descriptors, noise.descriptors], dim=1),
                positions=torch.cat([real.positions, noise.positions], dim=1),
                are_real=torch.arange(len(real) + more)[None] < len(real),
            )
        )
    found = glue(*padded).log_scores()
    assert found.isfinite().all()
    assert_close(found[:, : len(first), : len(second)], expected, atol=2e-5, rtol=1e-5)
    assert partners(found[0], 0.0)[0].tolist() == partners(expected[0], 0.0)[0].tolist()


def test_pairs_of_a_batch_do_not_see_each_other():
    glue, first, second = shaken(), points(13, batch=3), points(9, batch=3, seed=1)
    together = glue(first, second).log_scores()
    for k in range(3):
        alone = [
            Points(descriptors=p.descriptors[k : k + 1], positions=p.positions[k : k + 1])
            for p in (first, second)
        ]
        assert_close(glue(*alone).log_scores()[0], together[k], atol=1e-5, rtol=1e-5)


def test_the_order_of_the_images_does_not_matter():
    glue, first, second = shaken(), points(13), points(9, seed=1)
    there, back = glue(first, second).log_scores(), glue(second, first).log_scores()
    assert_close(there, back.transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_attention_in_bfloat16_is_torchs_own():
    q, k, v = (random_normal(2, 2, 7, 16, seed=seed).bfloat16() for seed in range(3))
    found = lightglue.attention(q, k, v, None)
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert_close(found.float(), expected, atol=0.03, rtol=0.03)


def test_the_untrained_network_finds_the_planted_order():
    first, order = points(40), random_order(40, seed=0)
    second = Points(descriptors=first.descriptors[:, order], positions=first.positions[:, order])
    glue = random_module(lambda: Glue(GlueShape()).eval(), seed=0)
    pairs, scores = partners(glue(first, second).log_scores()[0], 0.05)
    assert pairs[:, 1].tolist() == order.argsort().tolist()
    assert ((scores > 0) & (scores <= 1)).all()


def test_partners_are_mutual_and_above_the_threshold():
    scores = torch.tensor([[0.9, 0.8, 0.0], [0.85, 0.2, 0.1], [0.0, 0.1, 0.05]]).log()
    pairs, found = partners(scores, 0.05)
    assert pairs.tolist() == [[0, 0]]
    assert_close(found, torch.tensor([0.9]))
    assert len(partners(scores, 0.95)[0]) == 0


@pytest.mark.parametrize("counts", [(0, 5), (5, 0), (0, 0)])
def test_no_keypoints_are_no_matches(weights, counts):
    matcher = LightGlue(str(weights))
    prepared = [
        matcher.prepare(random_uniform(n, 2, seed=0), random_unit(n, 256, seed=0), (64, 48))
        for n in counts
    ]
    found = matcher(*prepared)
    assert found.pairs.shape == (0, 2)
    assert found.scores.shape == (0,)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_single_keypoint_is_no_trouble(weights, precision):
    matcher = LightGlue(str(weights), precision=precision)
    one = matcher.prepare(torch.ones(1, 2), random_unit(1, 256, seed=0), (64, 48))
    found = matcher(one, one)
    assert len(found) in (0, 1)
    assert found.scores.isfinite().all()


def test_positions_are_of_the_longer_edge():
    found = lightglue.positions(
        torch.tensor([[0.0, 0.0], [320.0, 240.0], [640.0, 0.0]]), (640, 480)
    )
    assert_close(found, torch.tensor([[-1.0, -0.75], [0.0, 0.0], [1.0, -0.75]]))


def test_d2nets_descriptors_go_through_the_bundled_projection():
    descriptors = F.normalize(random_uniform(6, 512, seed=0))
    expected = projection.load_projection(BUNDLED).apply(descriptors)
    assert_close(lightglue.projected(descriptors.half(), 256), expected, atol=2e-3, rtol=0)
    assert_close(lightglue.projected(expected, 256), expected)
    with pytest.raises(ValueError, match="cannot take 128"):
        lightglue.projected(torch.ones(6, 128), 256)


def test_files_are_in_half_precision_and_load(weights, tmp_path):
    glue = load_glue(weights)
    assert glue.shape == TINY
    for key, value in shaken().net.state_dict().items():
        assert_close(glue.net.state_dict()[key].cpu(), value.half().float().cpu())
    assert not any(weight.requires_grad for weight in glue.parameters())
    again = save_glue(tmp_path / "again.safetensors", glue)
    assert again.read_bytes() == weights.read_bytes()


def test_files_that_cannot_be_used_are_named(tmp_path, weights):
    with pytest.raises(WeightsError, match="gone: there are no such weights"):
        LightGlue("gone")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"cut\.safetensors: holds no weights of a matcher"):
        LightGlue(str(cut))
    with pytest.raises(WeightsError, match="holds no weights of a matcher"):
        LightGlue(str(BUNDLED))
    with pytest.raises(ValueError, match="5 heads cannot take"):
        GlueShape(heads=5)


def test_the_bundled_weights_match_a_photograph_with_itself():
    if not lightglue.BUNDLED["d2_lightglue"].is_file():
        pytest.skip("no weights are bundled yet")
    matcher, one = LightGlue(), points(60)
    found = matcher(one, one)
    assert len(found) > 40
    assert (found.pairs[:, 0] == found.pairs[:, 1]).all()


# The step: pairs + features.h5 -> matches.h5


def write(path, counts, configuration, width=256):
    with Staged(path, configuration, "keypoints") as staged:
        for seed, (name, count) in enumerate(counts.items()):
            features = Features(
                keypoints=random_uniform(count, 2, seed=seed) * 40,
                scores=torch.ones(count),
                descriptors=random_unit(count, width, seed=seed),
                scales=torch.ones(count),
            )
            staged.add(name, features_h5.features_record(features, (64, 48), 1.0, "float16"))
    return path


def test_a_features_file_is_matched(tmp_path, weights):
    features = write(tmp_path / "f.h5", {"a": 30, "b": 20, "none": 0}, {"feature": "d2net"})
    options = MatchingOptions(matcher="lightglue", weights=str(weights), min_score=0.0)
    path = match(options, [("a", "b"), ("a", "none")], features, tmp_path / "m.h5").path
    found = features_h5.read_matches(path, "a", "b")
    matcher = LightGlue(str(weights), 0.0)
    prepared = [
        matcher.prepare(f.keypoints, f.descriptors, (64, 48))
        for f in (features_h5.read_features(features, name) for name in "ab")
    ]
    expected = matcher(*prepared)
    assert len(expected) > 0
    assert found.pairs.tolist() == expected.pairs.tolist()
    assert_close(found.scores, expected.scores.cpu(), atol=1e-3, rtol=0)
    assert len(features_h5.read_matches(path, "a", "none")) == 0
    none = replace(options, min_matches=len(expected) + 1)
    assert len(features_h5.read_matches(
        match(none, [("a", "b")], features, tmp_path / "none.h5").path, "a", "b"
    )) == 0  # fmt: skip


def test_images_are_matched_the_right_way_up(tmp_path, weights):
    """LightGlue sees where keypoints are: a turned image would be another one to it."""
    upright = write(tmp_path / "f.h5", {"a": 30, "b": 20}, {"feature": "d2net"})
    with Staged(tmp_path / "turned.h5", {"feature": "d2net"}, "keypoints") as staged:
        for name, orientation in (("a", 6), ("b", 1)):
            found = features_h5.read_features(upright, name)
            size = upright_size((64, 48), orientation)
            xy = to_stored(found.keypoints.double(), orientation, size).float()
            stored = replace(found, keypoints=xy)
            record = features_h5.features_record(stored, size, 1.0, "float16", None, orientation)
            staged.add(name, record)
    options = MatchingOptions(matcher="lightglue", weights=str(weights), min_score=0.0)
    found = [
        features_h5.read_matches(match(options, [("a", "b")], path, output).path, "a", "b")
        for path, output in ((upright, tmp_path / "m0.h5"), (staged.path, tmp_path / "m1.h5"))
    ]
    assert len(found[0]) > 0
    assert found[0].pairs.tolist() == found[1].pairs.tolist()
    assert_close(found[0].scores, found[1].scores, atol=1e-3, rtol=0)


def test_matches_say_which_weights_made_them(tmp_path, weights):
    features = write(tmp_path / "f.h5", {"a": 3, "b": 3}, {"feature": "d2net"})
    options = MatchingOptions(matcher="lightglue", weights=str(weights))
    made_by = features_h5.read_configuration(
        match(options, [("a", "b")], features, tmp_path / "m.h5").path
    )
    assert made_by["matching"]["weights_sha256"] == file_sha256(weights)
    assert "ratio_threshold" not in made_by["matching"]
    nearest = match(MatchingOptions(), [("a", "b")], features, tmp_path / "n.h5").path
    assert set(features_h5.read_configuration(nearest)["matching"]) == {
        *("mutual", "ratio_threshold", "distance_threshold", "min_matches")
    }


@pytest.mark.parametrize(
    ("configuration", "text"),
    [
        ({"feature": "sift"}, "holds features of sift"),
        ({"feature": "d2net", "projection_sha256": "0"}, "another projection"),
    ],
)
def test_other_features_are_refused(tmp_path, weights, configuration, text):
    features = write(tmp_path / "f.h5", {"a": 3, "b": 3}, configuration)
    options = MatchingOptions(matcher="lightglue", weights=str(weights))
    with pytest.raises(ValueError, match=text):
        match(options, [("a", "b")], features, tmp_path / "m.h5")


def test_thresholds_of_nearest_neighbours_do_not_go_with_it():
    with pytest.raises(ValueError, match="ratio_threshold is of matcher 'nearest'"):
        MatchingOptions(matcher="lightglue", ratio_threshold=0.9)
    with pytest.raises(ValueError, match="min_score must be from 0 to 1"):
        MatchingOptions(min_score=1.5)


def test_hlocs_matcher_is_the_same(weights):
    from d2_hloc.matchers.d2net_lightglue import D2NetLightGlue

    model = D2NetLightGlue({"weights": str(weights), "min_score": 0.0})
    first, second = (random_uniform(n, 2, seed=n) * 40 for n in (30, 20))
    d0, d1 = (random_unit(n, 256, seed=n) for n in (30, 20))
    data = {
        "keypoints0": first[None],
        "keypoints1": second[None],
        "descriptors0": d0.T[None],
        "descriptors1": d1.T[None],
        "image0": torch.empty(1, 1, 48, 64),
        "image_size1": torch.tensor([[64, 48]]),
    }
    found = model(data)
    matcher = LightGlue(str(weights), 0.0)
    expected = matcher(matcher.prepare(first, d0, (64, 48)), matcher.prepare(second, d1, (64, 48)))
    index0 = (found["matches0"][0] >= 0).nonzero()[:, 0]
    assert index0.tolist() == expected.pairs[:, 0].tolist()
    assert found["matches0"][0][index0].tolist() == expected.pairs[:, 1].tolist()
    assert_close(found["matching_scores0"][0][index0], expected.scores)
    del data["image0"]
    with pytest.raises(ValueError, match="needs the image's size"):
        model(data)
    json.dumps(model.conf)


def test_hlocs_matcher_keeps_pyramids_apart(weights):
    from d2_hloc.matchers.d2net_lightglue import D2NetLightGlue

    model = D2NetLightGlue({"weights": str(weights), "min_score": 0.0, "min_support": 0.0})
    xy, descriptors = random_uniform(30, 2, seed=1) * 40, random_unit(30, 256, seed=1)
    of = torch.tensor([0.0, 1.0, 1.0]).repeat(10)  # hloc gives all datasets as floats
    data = {
        f"{key}{k}": value
        for k in "01"
        for key, value in (
            ("keypoints", xy[None]),
            ("descriptors", descriptors.T[None]),
            ("image_size", torch.tensor([[64, 48]])),
        )
    }
    kept = data | {"pyramids0": of[None], "pyramids1": of.roll(1)[None]}
    index1 = model(kept)["matches0"][0].cpu()
    index0 = (index1 >= 0).nonzero()[:, 0]
    assert len(index0) > 10
    assert torch.equal(of[index0], of.roll(1)[index1[index0]])
    assert not torch.equal(model(data)["matches0"][0].cpu(), index1)
