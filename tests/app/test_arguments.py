"""Arguments and the options that they stand for: names, places, files, and mistakes."""

import dataclasses
import re

import pytest
import torch
from scripts import BENCHMARKS, TRAININGS, load

from d2_hloc.app import cli
from d2_hloc.app.cli import COMPUTING, build_parser
from d2_hloc.core.described import described_options
from d2_hloc.features.names import MODULES
from d2_hloc.files.ray import cluster_of
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.sfm.options import NEAREST, Reconstruct

COMMANDS_BY_NAME = [command.__name__[1:].replace("_", "-") for command in cli.COMMANDS]


def options(text: str, *more: str):
    args = build_parser().parse_args([*text.split(), *more])
    return args.configure(args)


def test_without_arguments_options_are_the_defaults():
    assert options("reconstruct IMAGES OUT") == Reconstruct()


@pytest.mark.parametrize(
    ("text", "place", "value"),
    [
        ("--feature sift", "extraction.feature", "sift"),
        ("--resize-max none", "extraction.resize_max", None),
        ("--extraction.d2net.scales 0.5,1", "extraction.d2net.scales", (0.5, 1.0)),
        ("--refinement off", "refinement.enabled", False),
        ("--refinement.enabled false", "refinement.enabled", False),
        ("--pairs retrieval", "pairs.method", "retrieval"),
        ("--mapper global", "reconstruction.mapper", "global"),
        ("--camera-model OPENCV", "reconstruction.camera_model", "OPENCV"),
        ("--cameras single", "cameras", "single"),
        ("--reconstruction.verification.max-error 2", "reconstruction.verification.max_error", 2),
        ("--max-keypoints 7", "extraction.kornia_keypoints", 7),
    ],
)
def test_an_argument_is_its_option_and_no_other(text, place, value):
    conf = options(f"reconstruct IMAGES OUT {text}")
    found = {
        o.dotted: o.default for o in described_options(Reconstruct, default=conf) if not o.group
    }
    before = {o.dotted: o.default for o in described_options(Reconstruct) if not o.group}
    assert found[place] == value
    others = {p for p in before if found[p] != before[p] and not place.startswith(p)}
    assert all(p.endswith(("max_keypoints", "kornia_keypoints")) for p in others)


def test_arguments_win_over_the_file(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("extraction: {feature: sift, resize_max: 800}\npairs: {count: 3}\n")
    conf = options(f"reconstruct IMAGES OUT --config {path} --resize-max 400")
    assert (conf.extraction.feature, conf.extraction.resize_max) == ("sift", 400)
    assert conf.pairs.count == 3


@pytest.mark.parametrize(
    ("text", "matcher", "ratio"),
    [
        ("--feature d2net-dense", "grown", None),
        ("--feature d2net-dense --ratio 0.9", "grown", 0.9),
        ("--feature d2net-dense --matcher nearest --ratio 0.9", "nearest", 0.9),
        ("--feature densesfm", "hierarchical", None),
        ("--feature sift --matcher grown", "grown", None),
        ("--feature sift --matcher grown --ratio 0.8", "grown", 0.8),
    ],
)
def test_cells_have_matchers_of_their_own(text, matcher, ratio):
    rule = options(f"reconstruct IMAGES OUT {text}").matching_rule
    assert (rule.matcher, rule.ratio_threshold) == (matcher, ratio)


def test_an_option_of_matching_keeps_the_features_own_rule():
    conf = options("reconstruct IMAGES OUT --matching.min-matches 5")
    assert conf.matching == dataclasses.replace(NEAREST["d2net"], min_matches=5)
    conf = options("reconstruct IMAGES OUT --feature disk --matching.min-matches 5")
    assert conf.matching == MatchingOptions(min_matches=5)


@pytest.mark.parametrize("feature", MODULES)
@pytest.mark.parametrize("command", ["extract IMAGES OUT", "reconstruct IMAGES OUT"])
def test_every_feature_of_the_registry_is_known_everywhere(command, feature):
    conf = options(f"{command} --feature {feature}")
    assert getattr(conf, "extraction", conf).feature == feature


@pytest.mark.parametrize("command", ["reconstruct", "triangulate", "localize"])
def test_refinement_is_on_everywhere(command):
    paths = "A B" if command == "reconstruct" else "A B C"
    assert options(f"{command} {paths}").refinement.enabled
    assert not options(f"{command} {paths} --refinement off").refinement.enabled


@pytest.mark.parametrize("name", [*COMPUTING, *BENCHMARKS, *TRAININGS])
def test_a_device_can_be_chosen_everywhere_and_is_auto(name, capsys):
    if name in COMPUTING:
        paths = {"demo": 0, "triangulate": 3, "localize": 3, "match": 3, "pair": 2}.get(name, 2)
        assert build_parser().parse_args([name, *"ABC"[:paths]]).device == "auto"
    with pytest.raises(SystemExit):
        cli.main([name, "--help"]) if name in COMPUTING else load(name).main(["--help"])
    assert "--device" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_told_in_a_sentence(tmp_path, capsys):
    assert cli.main(["extract", str(tmp_path), str(tmp_path / "out.h5"), "--device", "cuda"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("d2-hloc: device: cuda is asked for, and torch finds none here")


@pytest.mark.parametrize(("device", "gpus"), [("auto", None), ("cpu", 0), ("cuda", 1)])
def test_a_cluster_workers_device_is_the_one_that_was_chosen(device, gpus):
    arguments = f"extract IMAGES OUT --engine ray --device {device}"
    assert cluster_of(build_parser().parse_args(arguments.split())).gpus == gpus


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--feature wish", "extraction: there is no feature 'wish'"),
        ("--reconstruction.verification.max-error 0", "reconstruction.verification.max_error must"),
        ("--matcher lightglue --ratio 0.9", "--ratio is of nearest neighbours"),
    ],
)
def test_mistakes_are_told_in_a_sentence(text, said, capsys):
    assert cli.main(["reconstruct", "IMAGES", "OUT", *text.split()]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--mapper fast", "'fast' is not one of incremental, global"),
        ("--resize-max wide", "expected a whole number, found 'wide'"),
        ("--refinement perhaps", "expected on or off"),
    ],
)
def test_a_value_that_is_none_ends_with_2(text, said, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["reconstruct", "IMAGES", "OUT", *text.split()])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_help_shows_few_options_and_help_all_every_one(capsys):
    shown = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            cli.main(["reconstruct", flag])
        shown[flag] = capsys.readouterr().out
    assert "--reconstruction.attempts" not in shown["--help"]
    assert len(shown["--help"].splitlines()) < 70
    assert "[0.001 to 100000] (4.0)" in " ".join(shown["--help-all"].split())


@pytest.mark.parametrize("command", COMMANDS_BY_NAME)
def test_help_all_of_every_command_has_all_its_options(command, capsys):
    shown = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as ended:
            cli.main([command, flag])
        assert not ended.value.code
        shown[flag] = capsys.readouterr().out
    flags = {flag: set(re.findall(r"--[\w.-]+", text)) for flag, text in shown.items()}
    assert flags["--help"] <= flags["--help-all"] | {"--help-all"}
    for option in described_options(cli.CONFIGURED[command]) if command in cli.CONFIGURED else ():
        assert option.group or "--" + option.dotted.replace("_", "-") in flags["--help-all"]


def test_a_configuration_is_written_and_read(tmp_path, capsys):
    assert cli.main(["config", "reconstruct"]) == 0
    path = tmp_path / "my.yaml"
    path.write_text(capsys.readouterr().out)
    assert options(f"reconstruct IMAGES OUT --config {path}") == Reconstruct()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shells_completion_names_the_commands(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    assert "reconstruct" in capsys.readouterr().out
