"""Relative poses: from a pair list to a report on rendered images, and the estimator on planted
points."""

import csv
import json
import logging
import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from killing import go_on_after_interruptions
from scripts import load

from d2_hloc.benchmarks.pair_scores import MatchedPair
from d2_hloc.benchmarks.relative_pose.data import PairListError, PosedPair, read_posed_pairs
from d2_hloc.benchmarks.relative_pose.report import summarize_relative_poses
from d2_hloc.benchmarks.relative_pose.scores import RelativePoseOptions, pinhole_camera, score_pose
from d2_hloc.core import config
from d2_hloc.core.pixels import from_colmap
from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.cameras.intrinsics import Intrinsics
from d2_hloc.sfm.cameras.sharing import cameras_of
from d2_hloc.sfm.poses_file import read_poses

VIEWS = ("view_03.jpg", "view_04.jpg", "view_05.jpg")
SIZE = (640, 480)
K = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])


def pose(degrees, translation):
    """A turn around y, as (4, 4)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]], translation
    return matrix


PAIR = PosedPair(
    name0="a/0.jpg",
    name1="a/1.jpg",
    quarter_turns=(0, 1),
    intrinsics0=K,
    intrinsics1=K * [[1.1, 1, 1], [1, 1.1, 1], [1, 1, 1]],
    cam1_from_cam0=pose(12, [1.0, 0.1, 0.2]),
)


def line_of(pair):
    """A pair in the list's form."""
    numbers = [*pair.intrinsics0.flat, *pair.intrinsics1.flat, *pair.cam1_from_cam0.flat]
    return " ".join([pair.name0, pair.name1, *map(str, pair.quarter_turns), *map(str, numbers)])


@pytest.fixture(scope="module")
def pipeline():
    return load("relative_pose")


@pytest.fixture(scope="module")
def scene(demo, tmp_path_factory):
    """Rendered views, and the list of their pairs."""
    folder = shutil.copytree(demo, tmp_path_factory.mktemp("demo") / "scene")
    images, poses = folder / "images", read_poses(folder / "ground_truth.txt")
    cameras = cameras_of(images, VIEWS, Intrinsics.read(folder / "intrinsics.txt"), "PINHOLE")
    lines = []
    for name0, name1 in combinations(VIEWS, 2):
        relative = np.eye(4)
        relative[:3] = (poses[name1] * poses[name0].inverse()).matrix()
        pair = PosedPair(
            name0=name0,
            name1=name1,
            quarter_turns=(0, 0),
            intrinsics0=intrinsics_of(cameras[name0]),
            intrinsics1=intrinsics_of(cameras[name1]),
            cam1_from_cam0=relative,
        )
        lines.append(line_of(pair))
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n\n")
    return folder


def intrinsics_of(camera):
    matrix = camera.calibration_matrix()
    matrix[:2, 2] = from_colmap(matrix[:2, 2])
    return matrix


def run(pipeline, scene, output, *more):
    given = ("--pairs", scene / "pairs.txt", "--images", scene / "images", "--output", output)
    arguments = [str(a) for a in (*given, "--refinement", "off", *more)]
    return pipeline.run_command("relative_pose", lambda: pipeline.main(arguments))


def test_a_line_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text(line_of(PAIR) + "\n")
    (found,) = read_posed_pairs(path)
    assert found.names == ("a/0.jpg", "a/1.jpg")
    assert found.quarter_turns == (0, 1)
    for key in ("intrinsics0", "intrinsics1", "cam1_from_cam0"):
        assert np.array_equal(getattr(found, key), getattr(PAIR, key))


SKEWED, MIRRORED, STILL, UNKNOWN = K.copy(), PAIR.cam1_from_cam0.copy(), np.eye(4), K.copy()
SKEWED[0, 1] = 3
MIRRORED[0] *= -1
UNKNOWN[0, 0] = np.nan


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.jpg b.jpg 0 0", "has 4 fields instead of 38"),
        (line_of(PAIR).replace("500.0", "wide"), "could not convert string to float"),
        (line_of(PAIR).replace("1.jpg 0 1", "1.jpg x 1"), "invalid literal for int"),
        (line_of(replace(PAIR, intrinsics0=UNKNOWN)), "holds numbers that are not finite"),
        (line_of(replace(PAIR, intrinsics0=SKEWED)), "K0 is not that of a camera without skew"),
        (line_of(replace(PAIR, intrinsics1=-K)), "K1 is not that of a camera without skew"),
        (line_of(replace(PAIR, cam1_from_cam0=MIRRORED)), "T_0to1 is not a rotation and a trans"),
        (line_of(replace(PAIR, cam1_from_cam0=STILL)), "T_0to1 has no translation"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path, line, expected):
    path = tmp_path / "pairs.txt"
    path.write_text(f"{line_of(PAIR)}\n{line}\n")
    with pytest.raises(PairListError, match=rf"pairs\.txt, line 2: {expected}"):
        read_posed_pairs(path)


def test_a_list_that_is_missing_or_empty_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"pairs\.txt: cannot be read"):
        read_posed_pairs(tmp_path / "pairs.txt")
    (tmp_path / "pairs.txt").write_text("\n\n")
    with pytest.raises(PairListError, match=r"pairs\.txt: holds no pair"):
        read_posed_pairs(tmp_path / "pairs.txt")


def planted(count=120, outliers=0):
    """Points as both cameras of PAIR see them, (0, 0) the first pixel's centre."""
    rng = np.random.default_rng(0)
    xyz0 = rng.uniform([-2, -1.5, 4], [2, 1.5, 9], (count, 3))
    xyz1 = xyz0 @ PAIR.cam1_from_cam0[:3, :3].T + PAIR.cam1_from_cam0[:3, 3]
    views = []
    for xyz, intrinsics in ((xyz0, PAIR.intrinsics0), (xyz1, PAIR.intrinsics1)):
        projected = xyz @ intrinsics.T
        views.append(projected[:, :2] / projected[:, 2:])
    views[1][:outliers] = rng.uniform(0, 480, (outliers, 2))
    return MatchedPair(keypoints=tuple(views), matched=tuple(views), sizes=(SIZE, SIZE))


@pytest.mark.parametrize("outliers", [0, 50])
def test_the_planted_pose_is_found(outliers):
    found = score_pose(RelativePoseOptions(), PAIR, planted(outliers=outliers))
    assert found.error < 0.1
    assert found.num_matches == 120
    assert found.num_inliers >= 120 - outliers


@pytest.mark.parametrize("count", [0, 4])
def test_too_few_matches_have_an_infinite_error(count):
    found = score_pose(RelativePoseOptions(), PAIR, planted(count))
    assert found.error == np.inf
    assert found.num_inliers == 0
    assert summarize_relative_poses([found]).values["auc_20deg"] == 0


def test_the_largest_error_is_positive():
    with pytest.raises(ValueError, match=r"max_error must be from 0\.001 to 100000, not 0"):
        RelativePoseOptions(max_error=0)


def test_rendered_views_from_images_to_report(pipeline, scene, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(pipeline, scene, output, "--feature", "sift") == 0
    record = json.loads((output / "run.json").read_text())
    assert record["counts"] == {"pairs": 3, "skipped": {}}
    assert record["scores"]["auc_20deg"] > 0.8
    with (output / "relative_pose.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["name0"], r["name1"]) for r in rows] == list(combinations(VIEWS, 2))
    assert all(float(r["rotation_error"]) < 2 for r in rows)
    assert "AUC at 5 degrees" in (output / "report.html").read_text()
    assert "auc_20deg" in capsys.readouterr().out
    again = (output / "relative_pose.csv").read_text()
    assert run(pipeline, scene, output, "--feature", "sift") == 0
    assert (output / "relative_pose.csv").read_text() == again
    assert run(pipeline, scene, output, "--feature", "d2net") == 1
    assert '"feature": "sift"' in capsys.readouterr().err


def test_a_finished_run_is_not_made_again_and_features_are_compared(
    pipeline, scene, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "out"
    assert run(pipeline, scene, output, "--feature", "sift", "d2net") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows if row[:1] in (["sift"], ["d2net"])] == [
        ["sift", "3"],
        ["d2net", "3"],
    ]
    scores = json.loads((output / "run.json").read_text())["scores"]
    assert scores["sift"]["auc_20deg"] > 0.8
    path = "d2_hloc.benchmarks.relative_pose.scores.score_pose"
    monkeypatch.setattr(path, lambda *_: pytest.fail("estimated again"))
    assert run(pipeline, scene, output, "--feature", "sift", "d2net") == 0
    assert json.loads((output / "run.json").read_text())["scores"] == scores


def test_images_that_are_not_there_are_named_with_their_pairs(
    pipeline, scene, tmp_path, capsys, caplog
):
    (pair,) = read_posed_pairs(scene / "pairs.txt")[:1]
    gone = replace(pair, name1="gone.jpg", quarter_turns=(0, 3))
    turned = replace(pair, quarter_turns=(1, 1))
    listed = tmp_path / "pairs.txt"
    listed.write_text(f"{line_of(turned)}\n{line_of(gone)}\n")
    (tmp_path / "images").symlink_to(scene / "images")
    with caplog.at_level(logging.WARNING):
        assert run(pipeline, tmp_path, tmp_path / "out", "--feature", "sift") == 0
    assert "1 pairs have an image that is stored turned" in caplog.text
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["counts"]["pairs"] == 1
    skipped = record["counts"]["skipped"]
    assert "there is no such image" in skipped["gone.jpg"]
    assert skipped[f"{pair.name0} gone.jpg"] == "there are no features of gone.jpg"
    assert "gone.jpg" in (tmp_path / "out" / "report.html").read_text()


def test_the_yaml_in_the_repository_is_the_default(pipeline):
    assert config.load(pipeline.RelativePose, pipeline.CONFIG) == pipeline.RelativePose()


def test_the_camera_is_colmaps():
    found = pinhole_camera(K, SIZE)
    assert found.model == pycolmap.CameraModelId.PINHOLE
    assert found.params.tolist() == [500, 510, 320.5, 240.5]


def test_goes_on_after_interruptions_before_any_record(pipeline, scene, tmp_path):
    output = tmp_path / "out"
    assert go_on_after_interruptions(lambda: run(pipeline, scene, output, "--feature", "sift")) > 2
    assert json.loads((output / "run.json").read_text())["scores"]["auc_20deg"] > 0.8
