"""One contract for all features, and what each adapter adds to it.

The weights of kornia's networks are not here: networks of the same form, initialized at random, are
saved where kornia looks for them.
"""

import functools
import json
import socket
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from d2_hloc.features import pretrained, registry
from d2_hloc.features.extraction import create_extractor, extraction_configuration, recorded_options
from d2_hloc.features.names import MODULES
from d2_hloc.features.options import ExtractionOptions, FeatureOptions
from d2_hloc.network.options import D2NetOptions
from d2_hloc.network.weights.catalogue import WeightsError

pytestmark = pytest.mark.usefixtures("on_device")

KORNIA = ["keynet-affnet-hardnet", "hesaffnet-hardnet", "disk", "aliked", "dedode", "xfeat"]
QUICK = [name for name in KORNIA if name != "dedode"]  # which takes seconds to make
HLOC = "hloc:blobs"
FEATURES = [*MODULES, HLOC]
SIZE = (156, 117)  # w, h: no multiple of anything


def options(feature):
    return FeatureOptions(feature=feature, kornia_keypoints=60)


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """A torch hub with weights for all of kornia's features."""
    from kornia import feature

    folder = tmp_path_factory.mktemp("hub")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        dedode = feature.DeDoDe("L", "B", torch.float32)
        keynet, xfeat = feature.KeyNet(False), feature.XFeat()
        with torch.no_grad():  # at random, neither would find anything
            keynet.last_conv[0].weight.abs_()
            xfeat.net.keypoint_head[-1].weight.mul_(30)
        state = {
            "AffNet.pth": {"state_dict": feature.LAFAffNetShapeEstimator(False).state_dict()},
            "checkpoint_liberty_with_aug.pth": {"state_dict": feature.HardNet(False).state_dict()},
            "keynet_pytorch.pth": {"state_dict": keynet.state_dict()},
            "OriNet.pth": {"state_dict": feature.orientation.OriNet(False).state_dict()},
            "depth-save.pth": {"extractor": feature.DISK().state_dict()},
            "aliked-n16.pth": feature.ALIKED().state_dict(),
            "dedode_detector_L_v2.pth": dedode.detector.state_dict(),
            "dedode_descriptor_B.pth": dedode.descriptor.state_dict(),
            "xfeat.pt": xfeat.net.state_dict(),
        }
    (folder / "checkpoints").mkdir()
    for name, values in state.items():
        torch.save(values, folder / "checkpoints" / name)
    return folder


@functools.cache
def made(feature):
    """An extractor, made once for all tests that only use it."""
    return create_extractor(options(feature))


@pytest.fixture
def in_hub(hub):
    yield from use_hub(hub)


@pytest.fixture
def in_empty_hub(tmp_path):
    yield from use_hub(tmp_path)


def use_hub(folder):
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(folder))
    yield folder
    torch.hub.set_dir(before)


BLOBS = '''
    """Maxima of the smoothed image, described by what is around them; some outside, some NaN."""

    import socket

    import torch
    import torch.nn.functional as F

    from ..utils.base_model import BaseModel


    class Blobs(BaseModel):
        def _init(self, conf):
            if conf.get("host"):
                socket.getaddrinfo(conf["host"], 443)
            if conf.get("missing"):
                raise ModuleNotFoundError("No module named 'missing'")

        def _forward(self, data):
            image = data["image"]
            assert image.shape[:2] == (1, 1), image.shape
            smooth = F.avg_pool2d(image, 5, stride=1, padding=2)
            is_peak = smooth == F.max_pool2d(smooth, 9, stride=1, padding=4)
            y, x = is_peak[0, 0].nonzero().T
            xy = torch.stack([x, y], dim=1).float()
            patches = F.unfold(image, 5, padding=2)[0].reshape(25, *image.shape[2:])
            xy[0], xy[1] = torch.tensor([-1.0, 5.0]), torch.nan
            return {"keypoints": xy[None], "descriptors": patches[:, y, x][None]}
'''
EXTRACT_FEATURES = """
    def conf(output="feats-blobs", **model):
        return {
            "output": output,
            "model": {"name": "blobs", **model},
            "preprocessing": {"grayscale": True, "resize_max": 1024},
        }


    confs = {
        "blobs": conf(),
        "fetching": conf(host="weights.example.org"),
        "broken": conf(missing=True),
        "retrieval": conf("global-feats-blobs"),
    }
"""
BASE_MODEL = """
    import importlib

    from torch import nn


    class BaseModel(nn.Module):
        def __init__(self, conf):
            super().__init__()
            self._init(conf)

        def forward(self, data):
            return self._forward(data)


    def dynamic_load(root, name):
        return importlib.import_module(f"{root.__name__}.{name}").Blobs
"""


@pytest.fixture
def hloc(tmp_path_factory, monkeypatch):
    """A package of hloc's form with a model that looks at grey images."""
    folder = tmp_path_factory.mktemp("site")
    files = {
        "__init__": "",
        "extract_features": EXTRACT_FEATURES,
        "utils/__init__": "",
        "utils/base_model": BASE_MODEL,
        "extractors/__init__": "",
        "extractors/blobs": BLOBS,
    }
    for name, code in files.items():
        path = folder / "hloc" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(code))
    for name in [n for n in sys.modules if n.split(".")[0] == "hloc"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)
    yield
    for name in [n for n in sys.modules if n.split(".")[0] == "hloc"]:
        del sys.modules[name]


@pytest.fixture(params=FEATURES)
def feature(request, in_hub, hloc):
    return request.param


@pytest.fixture(scope="module")
def images(photo):
    """Two pieces of a photograph, 2 x 3 x 117 x 156."""
    width, height = SIZE
    return torch.stack([photo[:, :height, :width], photo[:, -height:, -width:]])


def test_the_contract(feature, images):
    """Finite, in bounds, lengths agree, deterministic, a batch is its images, flat is (0, D)."""
    extractor = create_extractor(options(feature)) if feature == HLOC else made(feature)
    found = extractor(images)
    assert len(found) == 2
    for one, again in zip(found, [*extractor(images[:1]), *extractor(images[1:])], strict=True):
        assert len(one) > 5
        assert len(one.keypoints) == len(one.scores) == len(one.descriptors) == len(one.scales)
        for value in (one.keypoints, one.scores, one.descriptors, one.scales):
            assert value.dtype == torch.float32
            assert value.isfinite().all()
        assert one.keypoints.shape == (len(one), 2)
        assert (one.keypoints >= 0).all()
        assert (one.keypoints <= one.keypoints.new_tensor(SIZE) - 1).all()
        assert (one.scales > 0).all()
        norms = one.descriptors.norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-3, rtol=0)
        torch.testing.assert_close(one.keypoints, again.keypoints, atol=1e-3, rtol=0)
        torch.testing.assert_close(one.descriptors, again.descriptors, atol=1e-3, rtol=0)
    flat = extractor(torch.full((1, 3, 97, 121), 0.4))[0]
    assert flat.keypoints.shape == (0, 2)
    assert flat.descriptors.shape == (0, found[0].descriptors.shape[1])
    assert flat.scores.shape == flat.scales.shape == (0,)


def test_what_the_features_depend_on_is_plain_and_leads_back(feature):
    asked = ExtractionOptions(feature=feature, kornia_keypoints=50)
    made_by = json.loads(json.dumps(extraction_configuration(asked)))
    assert made_by["feature"] == feature
    assert extraction_configuration(recorded_options(made_by, "file")) == extraction_configuration(
        asked
    )


@pytest.mark.parametrize("name", KORNIA)
def test_kornias_features_depend_on_their_weights_and_their_number(name, in_hub):
    adapter = registry.adapter_of(name)
    found = adapter.configuration(options(name))
    assert found["kornia_keypoints"] == 60
    for file, digest in found["weights_sha256"].items():
        assert (in_hub / "checkpoints" / file).is_file()
        assert len(digest) == 64
    assert adapter.configuration(replace(options(name), kornia_keypoints=9)) != found


@pytest.mark.parametrize("name", QUICK)
def test_kornia_finds_no_more_than_it_is_asked_for(name, in_hub, images):
    few = create_extractor(FeatureOptions(feature=name, kornia_keypoints=7))(images[:1])[0]
    assert 0 < len(few) <= 7


@pytest.mark.parametrize("name", KORNIA)
def test_missing_weights_are_one_sentence_with_address_and_place(name, in_empty_hub):
    with pytest.raises(WeightsError) as error:
        create_extractor(options(name))
    text = str(error.value)
    assert text.startswith(f"the weights of {name} are not here: run with --download, or fetch")
    for file in registry.adapter_of(name).weights(name):
        assert f"{file.urls[0]} as {in_empty_hub / 'checkpoints'}" in text
    with pytest.raises(WeightsError):
        extraction_configuration(ExtractionOptions(feature=name))
    assert list(in_empty_hub.iterdir()) == []


@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_asked_of_the_network_but_by_download(name, in_hub, images, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("asked the network"))
    monkeypatch.setattr(pretrained, "fetch_file", lambda *_: pytest.fail("asked the network"))
    create_extractor(options(name))(images[:1])
    registry.adapter_of(name).download(options(name))  # all is there


def test_damaged_weights_are_neither_used_nor_fetched_again(in_empty_hub, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("asked the network"))
    path = in_empty_hub / "checkpoints" / "depth-save.pth"
    path.parent.mkdir()
    path.write_bytes(b"<html>too many requests</html>")
    with pytest.raises(WeightsError, match=r"depth-save\.pth: not a readable checkpoint .*delete"):
        create_extractor(options("disk"))
    assert path.read_bytes() == b"<html>too many requests</html>"


def test_a_checkpoint_that_holds_more_than_tensors_is_refused(in_empty_hub):
    path = in_empty_hub / "checkpoints" / "xfeat.pt"
    path.parent.mkdir()
    torch.save({"extra": SimpleNamespace(a=1)}, path)
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        create_extractor(options("xfeat"))


@pytest.mark.parametrize("name", KORNIA)
def test_without_a_network_a_download_is_one_sentence(name, in_empty_hub, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(WeightsError, match=r"cannot be downloaded .*put it at") as error:
        registry.adapter_of(name).download(options(name))
    assert str(in_empty_hub / "checkpoints") in str(error.value)
    assert list(in_empty_hub.glob("checkpoints/*")) == []


def test_a_download_comes_from_the_first_address_that_answers(in_empty_hub, tmp_path):
    (tmp_path / "there.pth").write_bytes(b"weights")
    urls = ((tmp_path / "gone.pth").as_uri(), (tmp_path / "there.pth").as_uri())
    file = pretrained.CachedWeights(urls=urls)
    pretrained.fetch_missing([file])
    assert file.path == in_empty_hub / "checkpoints" / "gone.pth"
    assert file.path.read_bytes() == b"weights"


def test_a_file_of_an_installed_package_is_an_address(in_empty_hub, tmp_path, monkeypatch):
    assert pretrained.in_package("scm_nothing", "weights.pth") == []
    (tmp_path / "scm_something").mkdir()
    (tmp_path / "scm_something" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "scm_something" / "a.pth").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    assert pretrained.in_package("scm_something", "b.pth") == []
    found = pretrained.in_package("scm_something", "a.pth")
    gone = (tmp_path / "gone.pth").as_uri()
    file = pretrained.CachedWeights(urls=(gone, *found), name="named.pth")
    pretrained.fetch_missing([file])
    assert (in_empty_hub / "checkpoints" / "named.pth").read_bytes() == b"weights"


def test_d2nets_published_weights_are_downloaded_when_they_are_asked_for(monkeypatch):
    fetched = []
    monkeypatch.setattr("d2_hloc.features.adapters.d2net.download_weights", fetched.append)
    monkeypatch.setenv("D2_HLOC_CACHE", "/nowhere")
    for weights in ("d2_ots", "d2_tf"):
        asked = FeatureOptions(d2net=D2NetOptions(weights=weights))
        registry.adapter_of("d2net").download(asked)
    assert fetched == ["d2_tf"]


@pytest.mark.parametrize("name", ["d2net", "d2net-ms", *KORNIA])
def test_an_image_too_small_is_one_sentence(name, in_hub):
    with pytest.raises(ValueError, match="too small"):
        made(name)(torch.rand(1, 3, 6, 7))


@pytest.mark.parametrize("name", ["disk", "dedode"])
def test_keypoints_of_whole_pixels_are_at_integers(name, in_hub, images):
    xy = made(name)(images[:1])[0].keypoints
    torch.testing.assert_close(xy, xy.round(), atol=1e-3, rtol=0)


def test_keypoints_of_a_resized_image_are_at_its_pixels_centres(in_hub, images):
    xy = made("xfeat")(images[:1])[0].keypoints
    ratio = torch.tensor(SIZE) / torch.tensor([128, 96])
    resized = (xy + 0.5) / ratio - 0.5
    torch.testing.assert_close(resized, resized.round(), atol=1e-3, rtol=0)


def test_a_hessian_detection_is_at_its_blob(in_hub):
    y, x = np.mgrid[:150, :170]
    blob = np.exp(-((x - 80.3) ** 2 + (y - 60.6) ** 2) / (2 * 5**2))
    image = torch.tensor(blob).float().expand(1, 3, -1, -1)
    found = made("hesaffnet-hardnet")(image)[0]
    distances = (found.keypoints - torch.tensor([80.3, 60.6])).norm(dim=1)
    assert distances.min() < 0.3


def test_hlocs_features_are_usable_and_have_scores(hloc, images):
    found = create_extractor(options(HLOC))(images[:1])[0]
    assert found.descriptors.shape[1] == 25
    assert (found.scores == 1).all()
    assert extraction_configuration(ExtractionOptions(feature=HLOC))["hloc"] == {"name": "blobs"}


def test_hloc_fetches_weights_only_when_it_may(hloc, monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a: asked.append(a))
    fetching = options("hloc:fetching")
    with pytest.raises(WeightsError, match=r"weights\.example\.org; run with --download"):
        create_extractor(fetching)
    assert asked == []
    registry.adapter_of("hloc:fetching").download(fetching)
    assert asked == [("weights.example.org", 443)]


def test_what_hloc_cannot_make_is_one_sentence(hloc):
    with pytest.raises(WeightsError, match=r"hloc:broken: hloc cannot make it \(No module named"):
        create_extractor(options("hloc:broken"))
    with pytest.raises(ValueError, match=r"'hloc:retrieval'; known are blobs, fetching, broken\."):
        create_extractor(options("hloc:retrieval"))


def test_without_hloc_its_features_are_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "hloc.extract_features", None)
    with pytest.raises(ValueError, match=r"hloc:disk: hloc cannot be used .*install what is"):
        create_extractor(options("hloc:disk"))


@pytest.mark.parametrize("name", ["surf", "", "hloc:", "D2Net"])
def test_an_unknown_feature_is_named_with_those_known(name):
    with pytest.raises(ValueError, match=f"no feature '{name}'; known are d2net, .*hloc:CONF"):
        ExtractionOptions(feature=name)


def test_an_old_kornia_without_xfeat_is_one_sentence(monkeypatch):
    import kornia

    monkeypatch.delattr(kornia.feature, "XFeat")
    with pytest.raises(ValueError, match=r"kornia .* has no XFeat: install a newer"):
        create_extractor(options("xfeat"))


def test_a_configuration_has_the_options_that_apply():
    common = {"resize_max": 1600, "descriptor_dtype": "float16", "top_k": None}
    common["rotations"] = "exif"
    made_by = extraction_configuration(ExtractionOptions(feature="sift"))
    assert set(made_by) == {"feature", "sift", *common}
    made_by = extraction_configuration(ExtractionOptions(feature="d2net-ms"))
    assert set(made_by) == {"feature", "d2net", "weights_sha256", *common}
    assert made_by["d2net"]["scales"] == [0.5, 1.0, 2.0]
    assert extraction_configuration(ExtractionOptions(top_k=5))["top_k"] == 5
