"""Under hloc - a stand-in, and the real one where it is installed - and without it: one result."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hloc_toolbox import ABSENT, PAIRS, STOOD_IN, Toolbox, photographs
from torch.testing import assert_close

from d2_hloc.core.config import ConfigError
from d2_hloc.core.structs import Features
from d2_hloc.extractors.d2net import D2NetExtractor
from d2_hloc.files.features_h5 import read_features, read_matches
from d2_hloc.hloc import __main__ as runner
from d2_hloc.hloc import commands, d2net_conf, matcher_conf
from d2_hloc.hloc.base_model import BaseModel
from d2_hloc.matchers.nearest_neighbor_exact import NearestNeighborExact
from d2_hloc.network.options import FINE, MULTISCALE


@pytest.fixture(scope="module", params=["stand-in", "real"])
def toolbox(request):
    return Toolbox.named(request.param)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("images"))


def extract_and_match(toolbox: Toolbox, images: Path, output: Path) -> tuple[Path, Path]:
    """The two commands, as they are typed, and the files that they make."""
    done = toolbox.command(
        *("extract_features", "--conf", "d2net", "--image_dir", images, "--export_dir", output)
    )
    assert done.returncode == 0, done.stderr
    done = toolbox.command(
        *("match_features", "--conf", "NN-mutual-d2net", "--features", "feats-d2net-ots-ss"),
        *("--pairs", images / "pairs.txt", "--export_dir", output),
    )
    assert done.returncode == 0, done.stderr
    features = output / "feats-d2net-ots-ss.h5"
    return features, output / "feats-d2net-ots-ss_matches-NN-mutual-d2net_pairs.h5"


@pytest.fixture(scope="module")
def own(images, tmp_path_factory):
    """Files that our own runner makes where hloc is absent."""
    return extract_and_match(ABSENT, images, tmp_path_factory.mktemp("own"))


def test_commands_give_what_our_own_runner_gives(toolbox, images, own, tmp_path):
    features, matches = extract_and_match(toolbox, images, tmp_path)
    for name in ("a.png", "b.png", "wide.png"):
        assert_close(vars(read_features(features, name)), vars(read_features(own[0], name)))
        with h5py.File(features) as theirs, h5py.File(own[0]) as ours:
            assert set(theirs[name]) == set(ours[name])
            assert (theirs[name]["image_size"][()] == ours[name]["image_size"][()]).all()
            noises = [f[name]["keypoints"].attrs["uncertainty"] for f in (theirs, ours)]
            assert noises[0] == pytest.approx(noises[1])
    for pair in PAIRS:
        ours, theirs = read_matches(own[1], *pair), read_matches(matches, *pair)
        assert_close(vars(theirs), vars(ours))
    assert len(read_matches(matches, *PAIRS[0])) > 20


def test_our_own_runner_takes_what_hlocs_command_takes(images, own, tmp_path):
    (tmp_path / "list.txt").write_text("# names\nb.png SIMPLE_RADIAL 231 185\n")
    features = commands.extract_features(
        f"--conf d2net-ms --image_dir {images} --as_half --image_list {tmp_path}/*.txt "
        f"--export_dir {tmp_path}/new/folder".split()
    )
    assert features == tmp_path / "new" / "folder" / "feats-d2net-ots-ms.h5"
    with h5py.File(features) as file:
        assert list(file) == ["b.png"]
        assert file["b.png"]["descriptors"].dtype == np.float16
        assert file["b.png"]["keypoints"].dtype == np.float32
        assert set(file["b.png"]["scales"][()]) == {0.5, 1, 2}
    matches = commands.match_features(
        f"--conf NN-ratio --features {own[0]} --pairs {images}/pairs.txt "
        f"--matches {tmp_path}/matches.h5".split()
    )
    assert matches == tmp_path / "matches.h5"
    assert len(read_matches(matches, *PAIRS[0])) > 0


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("triangulation", "install what is missing, hloc itself from https://"),
        ("extract_features --image_dir no --export_dir .", "no: there is no such folder"),
        ("extract_features --image_dir . --export_dir . --image_list no", "no: there is no list"),
        ("match_features --pairs p.txt --features f", "give the folder it is in with --export_dir"),
        (f"match_features --pairs p.txt --features {__file__}", "give that of the matches with"),
        ("match_features --pairs p.txt --export_dir .", "p.txt: cannot be read"),
    ],
)
def test_says_in_a_sentence_what_is_wrong_without_hloc(
    command, text, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "hloc", None)
    assert runner.main(command.split()) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert text in lines[0]


REGISTER_TWICE = """
import d2_hloc, sys
assert "hloc" not in sys.modules, "importing the package must not import hloc"
d2_hloc.register()
import hloc.extract_features, hloc.match_features, hloc.extractors, hloc.matchers
from hloc.utils.base_model import dynamic_load
def state():
    return (list(hloc.extractors.__path__), list(hloc.matchers.__path__),
            repr(hloc.extract_features.confs), repr(hloc.match_features.confs),
            hloc.match_features.writer_fn, dynamic_load(hloc.extractors, "d2net"),
            dynamic_load(hloc.matchers, "nearest_neighbor_exact"))
once = state()
d2_hloc.register()
assert state() == once
assert once[5].__init__ is not None and once[5].detection_noise > 1
assert all(m["model"].get("max_index", 0) is None
           for n, m in hloc.match_features.confs.items() if n.endswith("-d2net"))
print(*hloc.extract_features.confs)
"""


def test_registering_again_changes_nothing(toolbox):
    done = toolbox.python(REGISTER_TWICE)
    assert done.returncode == 0, done.stderr
    confs = done.stdout.split()
    assert {"d2net", "d2net-ss", "d2net-ms", "d2net-fine", "superpoint_aachen"} <= set(confs)


def test_wins_over_a_d2net_that_is_imported_already():
    code = """
import hloc.extractors.d2net, d2_hloc
d2_hloc.register()
from hloc.utils.base_model import dynamic_load
dynamic_load(hloc.extractors, "d2net")({"name": "d2net"})
"""
    done = STOOD_IN.python(code)
    assert done.returncode == 0, done.stderr


WRITE = """
import sys, torch, h5py, d2_hloc, hloc.match_features as m
d2_hloc.register()
for largest in (7, 32767, 32768, 70000):
    scores = torch.tensor([[0.75, 0.0]])
    pred = {"matches0": torch.tensor([[largest, -1]]), "matching_scores0": scores}
    m.writer_fn((f"a/{largest}", pred), match_path=sys.argv[1])
"""


def test_indices_beyond_int16_are_written_whole(toolbox, tmp_path):
    done = toolbox.python(WRITE, tmp_path / "matches.h5")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "matches.h5") as file:
        for largest, kind in ((7, "i2"), (32767, "i2"), (32768, "i4"), (70000, "i4")):
            matches0 = file["a"][str(largest)]["matches0"]
            assert matches0[()].tolist() == [largest, -1]
            assert matches0.dtype == kind
            assert file["a"][str(largest)]["matching_scores0"][()].tolist() == [0.75, 0]


def test_a_pipeline_takes_the_feature_and_keypoints_stay_exact(images, own, tmp_path):
    done = STOOD_IN.command(
        *("pipelines.Tiny.pipeline", "--feature", "d2net", "--images", images),
        *("--pairs", images / "pairs.txt", "--outputs", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    halved = read_features(tmp_path / "feats-d2net-ots-ss.h5", "wide.png")
    assert halved.descriptors.dtype == torch.float16
    assert_close(halved.keypoints, read_features(own[0], "wide.png").keypoints)
    matches = tmp_path / "feats-d2net-ots-ss_matches-NN-mutual-d2net_pairs.h5"
    assert len(read_matches(matches, *PAIRS[0])) > 20


def test_says_in_a_sentence_what_is_wrong():
    expected = {
        "pipelines.Tiny.fixed --feature d2net": "takes no conf of local features",
        "pipelines.Tiny.pipeline --feature d3net": "no conf 'd3net'; known are superpoint_aachen",
        "pipelines.Tiny.pipeline --matcher NN": "no conf 'NN'; known are superglue",
        "no_such_command": "hloc has no command 'no_such_command'",
        "pipelines.Tiny": "hloc has no command 'pipelines.Tiny'",
    }
    code = "for line in sys.argv[1:]: print(main(line.split()))"
    done = STOOD_IN.python("import sys\nfrom d2_hloc.hloc.__main__ import main\n" + code, *expected)
    assert done.stdout.split() == ["1"] * len(expected), done.stderr
    for line, text in zip(done.stderr.splitlines(), expected.values(), strict=True):
        assert text in line


def test_an_error_ends_the_process_though_the_writer_still_waits(toolbox, images, tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name, width in (("a.png", 8), ("b.png", 9), ("wide.png", 9)):
            file[f"{name}/descriptors"] = np.ones((width, 3), np.float32)
            file[f"{name}/image_size"] = np.array([4, 4])
    done = toolbox.command(
        *("match_features", "--conf", "NN-mutual-d2net", "--features", "f"),
        *("--pairs", images / "pairs.txt", "--export_dir", tmp_path),
    )
    assert done.returncode == 1
    assert "Descriptors of 8 and 9 numbers cannot be matched" in done.stderr


@pytest.mark.parametrize("broken", ["hloc/__init__.py", "hloc/utils/base_model.py"])
def test_an_hloc_that_lacks_something_is_as_good_as_none(broken, images, tmp_path):
    for file in ("hloc/__init__.py", "hloc/utils/__init__.py", broken):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("import a_package_that_is_missing" if file == broken else "")
    code = """
from d2_hloc.hloc.base_model import BaseModel
assert BaseModel.__module__ == "d2_hloc.hloc.base_model"
import d2_hloc
d2_hloc.register()
"""
    done = Toolbox(path=tmp_path).python(code)
    text = "ImportError: hloc cannot be used (No module named 'a_package_that_is_missing')"
    if broken == "hloc/utils/base_model.py":  # a part that register() does not come to
        text = "ImportError: hloc cannot be used (No module named 'hloc.extract_features')"
    assert text in done.stderr.splitlines()[-1]


def test_base_model_keeps_the_contract():
    class Doubled(BaseModel):
        default_conf = {"a": 1, "b": 2}  # noqa: RUF012
        required_inputs = ["x", "y"]  # noqa: RUF012

        def _init(self, conf):
            self.seen = conf

        def _forward(self, data):
            return {"x": data["x"] * 2}

    model = Doubled({"b": 3})
    assert model.conf == model.seen == {"a": 1, "b": 3}
    assert model({"x": torch.tensor(2), "y": torch.tensor(0)}) == {"x": torch.tensor(4)}
    with pytest.raises((ValueError, AssertionError), match="y"):
        model({"x": torch.tensor(2)})


def check_features(found: dict[str, torch.Tensor], width: int, height: int) -> None:
    """Finite, in bounds, of one length, descriptors of unit length."""
    count = found["scores"].shape[1]
    assert found["keypoints"].shape == (1, count, 2)
    assert found["scales"].shape == (1, count)
    assert found["descriptors"].shape == (1, 512, count)
    assert "pyramids" not in found or found["pyramids"].shape == (1, count)
    assert all(value.isfinite().all() for value in found.values())
    assert (found["keypoints"] >= 0).all()
    assert (found["keypoints"] <= torch.tensor([width - 1, height - 1])).all()
    assert_close(found["descriptors"].norm(dim=1), torch.ones(1, count))


EXTRACTORS = {
    "ss": {"name": "d2net"},
    "ms": {"name": "d2net", "multiscale": True, "max_keypoints": 100},
    "fine": {"name": "d2net", "fine": True},
    "released": {"name": "d2net", "position": "released", "scales": [1.0, 1.5]},
}


@pytest.mark.parametrize("conf", EXTRACTORS.values(), ids=EXTRACTORS)
class TestExtractors:
    """Contract of hloc with every extractor."""

    def test_features_are_sound_and_the_same_again(self, conf, photo):
        model, photo = D2NetExtractor(conf).eval(), photo[:, :163, :215]
        found = model({"image": photo[None]})
        assert found["scores"].shape[1] > 50
        check_features(found, photo.shape[2], photo.shape[1])
        again = model({"image": photo[None]})
        assert all(torch.equal(found[key], again[key]) for key in found)

    @pytest.mark.parametrize("value", [0, 0.5, 1])
    def test_flat_image(self, conf, value):
        found = D2NetExtractor(conf).eval()({"image": torch.full((1, 3, 67, 93), float(value))})
        check_features(found, 93, 67)
        assert found["scores"].shape[1] == 0

    def test_no_features_is_a_normal_result(self, conf, monkeypatch):
        model = D2NetExtractor(conf).eval()
        empty = Features(
            keypoints=torch.empty(0, 2),
            scores=torch.empty(0),
            descriptors=torch.empty(0, 512),
            scales=torch.empty(0),
        )
        monkeypatch.setattr(model.net, "extract", lambda image: empty)
        found = model({"image": torch.zeros(1, 3, 32, 32)})
        shapes = {key: tuple(value.shape) for key, value in found.items()}
        assert shapes == {
            "keypoints": (1, 0, 2),
            "scores": (1, 0),
            "descriptors": (1, 512, 0),
            "scales": (1, 0),
        }

    def test_takes_one_image_at_a_time(self, conf):
        with pytest.raises(ValueError, match=r"1 x 3 x H x W, not \(2, 3, 32, 32\)"):
            D2NetExtractor(conf)({"image": torch.zeros(2, 3, 32, 32)})


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ({}, {"weights": "d2_ots", "scales": (1.0,)}),
        ({"name": "d2net", "multiscale": True}, {"scales": MULTISCALE}),
        ({"name": "d2net", "fine": True}, FINE),
        ({"multiscale": False, "scales": [0.5, 1]}, {"scales": (0.5, 1.0)}),
        ({"model_name": "d2_tf.pth", "use_relu": True}, {"weights": "d2_tf"}),
        ({"model_name": "d2_tf.pth", "checkpoint_dir": Path("no")}, {"weights": "d2_tf"}),
        ({"weights": Path("a/b.pth")}, {"weights": str(Path("a/b.pth").absolute())}),
        ({"position": "released"}, {"weights": "d2_ots", "position": "released"}),
        ({"precision": "float16", "edge_threshold": 10}, {"edge_threshold": 10.0}),
    ],
)
def test_conf_of_an_extractor(conf, expected):
    options = d2net_conf.d2net_options_of(conf)
    assert {key: getattr(options, key) for key in expected} == expected


def test_conf_names_a_checkpoint_in_a_folder(tmp_path):
    (tmp_path / "mine.pth").touch()
    conf = {"model_name": "mine.pth", "checkpoint_dir": tmp_path}
    assert d2net_conf.d2net_options_of(conf).weights == str(tmp_path / "mine.pth")


@pytest.mark.parametrize(
    ("conf", "text"),
    [
        ({"max_keypoint": 5}, "d2net: unknown key 'max_keypoint'; known are weights, scales"),
        ({"use_relu": False}, "use_relu cannot be False"),
        ({"multiscale": True, "scales": [1.0]}, "give scales or multiscale, not both"),
        ({"multiscale": True, "fine": True}, "give scales or fine, not both"),
        ({"weights": "a", "model_name": "b"}, "give weights or model_name, not both"),
        ({"max_keypoints": 0}, "max_keypoints must be from 1 to .*, not 0"),
        ({"position": "center"}, "'center' is not one of 'centre', 'released'"),
    ],
)
def test_conf_of_an_extractor_that_does_not_fit(conf, text):
    with pytest.raises(ConfigError, match=text):
        d2net_conf.d2net_options_of(conf)


def unit(*shape: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(values, dim=1)


@pytest.mark.parametrize("conf", [{}, {"ratio_threshold": 0.9}, {"do_mutual_check": False}])
class TestMatchers:
    """Contract of hloc with every matcher."""

    def test_finds_the_permutation(self, conf):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
        first = unit(1, 32, 40)
        data = {"descriptors0": first, "descriptors1": first[..., order].half()}
        found = NearestNeighborExact(conf)(data)
        assert found["matches0"].dtype == torch.int64
        assert torch.equal(order[found["matches0"][0]], torch.arange(40))
        assert_close(found["matching_scores0"], torch.ones(1, 40), atol=1e-3, rtol=0)
        again = NearestNeighborExact(conf)(data)
        assert all(torch.equal(found[key], again[key]) for key in found)

    @pytest.mark.parametrize(("count0", "count1"), [(0, 5), (5, 0), (0, 0), (1, 1), (7, 3)])
    def test_any_number_of_features(self, conf, count0, count1):
        data = {"descriptors0": unit(1, 16, count0), "descriptors1": unit(1, 16, count1)}
        found = NearestNeighborExact(conf)(data)
        assert found["matches0"].shape == found["matching_scores0"].shape == (1, count0)
        assert (found["matches0"] >= -1).all()
        assert (found["matches0"] < max(1, count1)).all()
        assert found["matching_scores0"].isfinite().all()
        assert (found["matching_scores0"][found["matches0"] < 0] == 0).all()

    def test_takes_one_pair_at_a_time(self, conf):
        data = {"descriptors0": unit(2, 16, 5), "descriptors1": unit(1, 16, 5)}
        with pytest.raises(ValueError, match=r"descriptors0 must be 1 x D x N, not \(2, 16, 5\)"):
            NearestNeighborExact(conf)(data)


def test_whole_numbers_of_compressed_descriptors_are_taken_at_unit_length():
    """Or no ratio and no distance would say anything: hloc reads them as numbers up to 127."""
    first, second = unit(1, 32, 60), unit(1, 32, 60) + 0.7 * unit(1, 33, 60)[:, 1:]
    conf = {"ratio_threshold": 0.6}
    expected = NearestNeighborExact(conf)(
        {"descriptors0": first, "descriptors1": torch.nn.functional.normalize(second, dim=1)}
    )
    assert 0 < (expected["matches0"] >= 0).sum() < 60
    whole = {"descriptors0": (400 * first).round(), "descriptors1": (250 * second).round()}
    found = NearestNeighborExact(conf)(whole)
    assert (found["matches0"] == expected["matches0"]).float().mean() > 0.95
    assert_close(
        found["matching_scores0"].max(), expected["matching_scores0"].max(), atol=0.01, rtol=0
    )


def test_a_match_that_cannot_be_stored_is_an_error():
    data = {"descriptors0": unit(1, 16, 6), "descriptors1": unit(1, 16, 6)}
    with pytest.raises(ValueError, match="keypoint 5, but hloc would store indices above 4 wrapp"):
        NearestNeighborExact({"max_index": 4})(data)
    assert NearestNeighborExact({"max_index": None})(data)["matches0"].max() == 5


def test_conf_of_a_matcher_that_does_not_fit():
    with pytest.raises(ConfigError, match="matcher: unknown key 'ratio'; known: matcher, mutual,"):
        matcher_conf.matching_options_of({"ratio": 0.9})
    with pytest.raises(ConfigError, match=r"ratio_threshold must be from 0\.001 to 1, not 0"):
        matcher_conf.matching_options_of({"ratio_threshold": 0.0})
