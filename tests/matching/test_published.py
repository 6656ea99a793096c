"""LightGlue of other features: kornia's network on files of features, and what is said without."""

import kornia.feature as KF
import pytest
import torch
from random_tensors import random_module, random_uniform, random_unit
from torch.testing import assert_close

from d2_hloc.core.structs import Features
from d2_hloc.files import features_h5
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.matching.match_pairs import configuration, match
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.matching.published import PublishedGlue
from d2_hloc.network.weights.catalogue import WeightsError

pytestmark = pytest.mark.usefixtures("on_device")

LIGHTGLUE = MatchingOptions(matcher="lightglue", min_score=0.0)
SIZE = (100, 80)


@pytest.fixture
def hub(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


@pytest.fixture
def xfeats_glue(hub):
    """A network of the form of XFeat's, at random, saved where kornia looks for it."""
    about = {k: v for k, v in KF.LightGlue.features["xfeat"].items() if k != "weights"}
    net = random_module(lambda: KF.LightGlue(None, **about).eval(), seed=0)
    hub.mkdir(parents=True)
    save(net, hub / "xfeat-lighterglue.pt")
    return net


def save(net, path):
    torch.save({name: value.cpu() for name, value in net.state_dict().items()}, path)


def features(seed, count=30, width=64):
    return Features(
        keypoints=random_uniform(count, 2, seed=seed) * torch.tensor(SIZE),
        scores=random_uniform(count, seed=seed),
        descriptors=random_unit(count, width, seed=seed),
        scales=torch.ones(count),
    )


def written(path, feature):
    with Staged(path, {"feature": feature}, "keypoints") as staged:
        for seed, name in enumerate(("a.jpg", "b.jpg")):
            staged.add(name, features_h5.features_record(features(seed), SIZE, 1.0, "float16"))
    return path


def test_matches_by_kornias_network(xfeats_glue, tmp_path):
    path = written(tmp_path / "features.h5", "xfeat")
    found = match(LIGHTGLUE, [("a.jpg", "b.jpg")], path, tmp_path / "matches.h5")
    data = {
        f"image{k}": {
            "keypoints": f.keypoints[None],
            "descriptors": f.descriptors.half().float()[None],
            "image_size": torch.tensor([SIZE]).float(),
        }
        for k, f in enumerate(map(features, (0, 1)))
    }
    xfeats_glue.conf.filter_threshold = 0.0
    with torch.inference_mode():
        expected = xfeats_glue(data)
    stored = features_h5.read_matches(found.path, "a.jpg", "b.jpg")
    assert len(stored) > 0
    assert stored.pairs.tolist() == expected["matches"][0].tolist()
    assert_close(stored.scores, expected["scores"][0].cpu(), atol=1e-2, rtol=0)


def test_an_image_without_features_has_no_matches(xfeats_glue):
    glue = PublishedGlue("xfeat")
    none = glue.prepare(torch.empty(0, 2), torch.empty(0, 64), SIZE)
    some = glue.prepare(features(0).keypoints, features(0).descriptors, SIZE)
    assert len(glue(none, some)) == len(glue(some, none)) == 0


def test_descriptors_of_another_width_are_one_sentence(xfeats_glue):
    with pytest.raises(ValueError, match="of 64 numbers, not 32"):
        PublishedGlue("xfeat").prepare(torch.ones(3, 2), torch.ones(3, 32), SIZE)


def test_matches_depend_on_the_weights(xfeats_glue, hub):
    before = configuration(LIGHTGLUE, "xfeat")
    assert before["matcher"] == "lightglue"
    assert "precision" not in before
    save(KF.LightGlue(None, input_dim=64), hub / "xfeat-lighterglue.pt")
    assert configuration(LIGHTGLUE, "xfeat") != before


def test_weights_that_are_not_here_are_one_sentence(hub, tmp_path):
    path = written(tmp_path / "features.h5", "aliked")
    with pytest.raises(WeightsError, match="weights of the LightGlue of aliked are not here"):
        match(LIGHTGLUE, [("a.jpg", "b.jpg")], path, tmp_path / "matches.h5")
    assert not (tmp_path / "matches.h5").exists()


def test_features_that_have_no_lightglue_are_one_sentence(tmp_path):
    path = written(tmp_path / "features.h5", "sift")
    with pytest.raises(
        ValueError, match="of sift, and 'lightglue' matches those of d2net, d2net-ms, d2net-fine"
    ):
        match(LIGHTGLUE, [("a.jpg", "b.jpg")], path, tmp_path / "matches.h5")
