"""InLoc from a folder to its report, on a rendered scene whose points and poses are exact."""

import csv
import json
import shutil
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from inloc_scene import (
    FLOOR,
    SIZE,
    query_camera,
    write_mat5,
    write_scene,
)
from killing import go_on_after_interruptions
from loaded_process import LoadedProcess
from PIL import Image
from scripts import load
from sharded import assert_same_data, cluster_here, run_all_shards

from d2_hloc.benchmarks.inloc import data as inloc
from d2_hloc.benchmarks.inloc.cameras import CameraOptions, inloc_camera, query_cameras
from d2_hloc.benchmarks.inloc.dense_verification import DenseVerifier, rerank
from d2_hloc.benchmarks.inloc.lists import read_list
from d2_hloc.benchmarks.inloc.pose_files import QueryPoses, RankedPose, pose_numbers
from d2_hloc.benchmarks.inloc.rendering import CloudCache, DensePVOptions
from d2_hloc.benchmarks.inloc.scans import MapCache
from d2_hloc.core import config
from d2_hloc.features.extracted import Extracted
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm import pose_errors
from d2_hloc.sfm.poses_file import read_poses

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "pipelines" / "inloc.py"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("inloc"))


@pytest.fixture
def copied(scene, tmp_path):
    """The data set, to damage it."""
    folder = Path(shutil.copytree(scene.folder, tmp_path / "copy"))
    return replace(scene, folder=folder)


@pytest.fixture(scope="module")
def pipeline():
    return load("inloc")


def arguments(scene, output, *more):
    """`more` may switch refinement on again."""
    given = "--dataset", scene.folder, "--output", output, "--ground-truth", scene.truth
    return [str(a) for a in (*given, "--refinement", "off", *more)]


def run(pipeline, scene, output, *more):
    """The command, in this process; its exit status."""
    return pipeline.run_command("inloc", lambda: pipeline.main(arguments(scene, output, *more)))


@pytest.fixture(scope="module")
def finished(pipeline, scene, tmp_path_factory):
    """All methods with SIFT."""
    output = tmp_path_factory.mktemp("finished") / "out"
    methods = "direct", "sparse", "sparse+pv", "pooled"
    assert run(pipeline, scene, output, "--feature", "sift", "--method", *methods) == 0
    return output


def errors_in(path, scene):
    return pose_errors.pose_errors(read_poses(path), read_poses(scene.truth))


@pytest.mark.parametrize("method", ["sparse", "sparse+pv", "pooled"])
def test_queries_are_where_they_were(finished, scene, method):
    for metres, degrees in errors_in(finished / method / "poses.txt", scene).values():
        assert metres < 0.01
        assert degrees < 0.2


def test_dense_methods_take_all_cells(pipeline, scene, tmp_path, capsys):
    assert run(pipeline, scene, tmp_path, "--method", "dense", "dense+pv") == 0
    assert "densesfm" in capsys.readouterr().out
    for metres, degrees in errors_in(tmp_path / "dense+pv" / "poses.txt", scene).values():
        assert metres < 0.05
        assert degrees < 1
    assert run(pipeline, scene, tmp_path / "o", "--feature", "sift", "--method", "dense") == 1
    assert "method 'dense' takes features of all cells" in capsys.readouterr().err


def test_all_files_say_the_same(finished, scene):
    poses = read_poses(finished / "sparse+pv" / "poses.txt")
    listed = read_list(finished / "sparse+pv" / "ImgList.mat")
    with (finished / "sparse+pv" / "queries.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(poses) == sorted(rows) == sorted(scene.poses)
    for query, entries in listed.items():
        name = inloc.short_name(query)
        assert np.allclose(entries[0].matrix, poses[name].matrix(), atol=1e-6)
        assert [e.score for e in entries] == sorted((e.score for e in entries), reverse=True)
        assert rows[name]["localized"] == "True"
        assert rows[name]["cutout"] == inloc.short_name(entries[0].cutout)
        assert int(rows[name]["inliers"]) > 20


def test_the_record_has_scores_counts_and_costs(finished):
    record = json.loads((finished / "run.json").read_text())
    scores = record["scores"]["sparse"]
    assert scores["recall_0.25m_10deg"] == scores["recall_0.05m_1deg"] == 1
    assert scores["median_position_error_m"] < 0.01
    assert scores["megabytes_an_image"] > 0
    assert scores["seconds_a_query"] > 0
    assert record["counts"] == {"queries": 2, "cutouts": 3, "skipped": {}}


def test_the_report_has_measured_and_published_rows_and_pictures(finished):
    page = (finished / "report.html").read_text()
    for text in ("<td>measured</td>", "<td>published</td>", "InLoc + D2 MS", "43.2", "sparse+pv"):
        assert text in page
    assert page.count("rendered from its pose") == 2 * 2  # caption and alternative text


def test_a_finished_run_is_not_made_again(pipeline, scene, finished, monkeypatch, capsys):
    monkeypatch.setattr(
        "d2_hloc.benchmarks.inloc.poses.pose_query", lambda *_: pytest.fail("again")
    )
    monkeypatch.setattr(
        "d2_hloc.benchmarks.inloc.dense_verification.rerank", lambda *_: pytest.fail("again")
    )
    methods = "direct", "sparse", "sparse+pv", "pooled"
    assert run(pipeline, scene, finished, "--feature", "sift", "--method", *methods) == 0
    assert "sparse+pv  sift" in capsys.readouterr().out


def test_goes_on_after_a_kill(pipeline, scene, finished, tmp_path):
    """Killed once the features are there, then run to the end: the same poses."""
    output = tmp_path / "out"
    more = "--feature", "sift", "--method", "sparse"
    process = LoadedProcess([SCRIPT, *arguments(scene, output, *more)])
    deadline = time.monotonic() + 60
    while not (output / "features.h5").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert run(pipeline, scene, output, *more) == 0
    poses = (finished / "sparse" / "poses.txt").read_text()
    assert (output / "poses.txt").read_text() == poses


def test_goes_on_after_interruptions_before_any_record(pipeline, scene, finished, tmp_path):
    output = tmp_path / "out"
    more = "--feature", "sift", "--method", "sparse"
    assert go_on_after_interruptions(lambda: run(pipeline, scene, output, *more)) > 2
    poses = (finished / "sparse" / "poses.txt").read_text()
    assert (output / "poses.txt").read_text() == poses


def test_a_combination_goes_on_after_an_interruption(pipeline, finished, tmp_path):
    lists = [str(finished / name / "ImgList.mat") for name in ("sparse", "pooled")]
    arguments = ["--combine", *lists, "--output", str(tmp_path / "out")]

    def combine():
        return pipeline.run_command("inloc", lambda: pipeline.main(arguments))

    assert go_on_after_interruptions(combine) > 0


def test_queries_that_are_done_stay(pipeline, scene, finished, tmp_path, monkeypatch):
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    content = json.loads((output / "sparse.json").read_text())
    del content["queries"][1]
    (output / "sparse.json").write_text(json.dumps(content))
    done, original = [], sys.modules["d2_hloc.benchmarks.inloc.poses"].pose_query

    def counted(*given):
        done.append(given[-1])
        return original(*given)

    monkeypatch.setattr("d2_hloc.benchmarks.inloc.poses.pose_query", counted)
    assert run(pipeline, scene, output, "--feature", "sift", "--method", "sparse") == 0
    assert done == [scene.queries[1]]
    (output / "sparse.json").write_text("{")
    assert run(pipeline, scene, output, "--feature", "sift", "--method", "sparse") == 1


def test_refinement_and_several_features_in_one_table(pipeline, scene, tmp_path, capsys):
    more = "--feature", "sift", "d2net", "--refinement", "on"
    assert run(pipeline, scene, tmp_path / "out", *more) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = [line.split()[:3] for line in lines if line.startswith("sparse")]
    assert tables[-2:] == [["sparse", "sift", "yes"], ["sparse", "d2net", "yes"]]
    for feature in ("sift", "d2net"):
        for metres, degrees in errors_in(tmp_path / "out" / feature / "poses.txt", scene).values():
            assert metres < 0.01
            assert degrees < 0.2


def test_the_learned_matcher_places_the_queries(pipeline, scene, tmp_path, capsys):
    assert run(pipeline, scene, tmp_path, "--feature", "d2net", "--matcher", "lightglue") == 0
    assert "d2net+lightglue" in capsys.readouterr().out
    made = json.loads((tmp_path / "run.json").read_text())
    assert made["configuration"]["matching"]["matcher"] == "lightglue"
    for metres, degrees in errors_in(tmp_path / "poses.txt", scene).values():
        assert metres < 0.06
        assert degrees < 0.6


@pytest.fixture
def damaged(copied):
    """Each cutout in another way: one is whole, one cut short, one without depth."""
    _, short, empty = (copied.folder / f"{name}.mat" for name in copied.cutouts)
    short.write_bytes(short.read_bytes()[:3000])
    write_mat5(empty, XYZcut=np.full((SIZE[1], SIZE[0], 3), np.nan, np.float32))
    flat = Image.new("RGB", SIZE, (90, 90, 90))
    flat.save(copied.folder / "query/iphone7/IMG_0009.JPG")
    return copied


def test_whatever_is_damaged_is_named_and_skipped(pipeline, damaged, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(pipeline, damaged, output, "--feature", "sift") == 0
    skipped = json.loads((output / "run.json").read_text())["counts"]["skipped"]
    assert skipped[damaged.cutouts[1]].endswith("is damaged or no .mat file.")
    assert "has a point, so the cutout has no depth" in skipped[damaged.cutouts[2]]
    assert skipped["IMG_0009.JPG, sparse"] == "it has no match with a point"
    printed = capsys.readouterr().out
    assert f"skipped by sift: {damaged.cutouts[1]}" in printed
    assert "IMG_0009.JPG, sparse: it has no match" in printed
    assert "IMG_0009.JPG,False" in (output / "queries.csv").read_text()
    assert max(e[0] for e in errors_in(output / "poses.txt", damaged).values()) < 0.05


def test_a_missing_alignment_and_map_are_named(pipeline, copied, tmp_path):
    inloc.alignment_path(copied.folder, copied.cutouts[0]).unlink()
    (copied.folder / f"{copied.cutouts[1]}.mat").unlink()
    assert run(pipeline, copied, tmp_path / "out", "--feature", "sift") == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    skipped = record["counts"]["skipped"]
    assert skipped[copied.cutouts[0]].startswith("there is no alignment: ")
    assert "DUC_trans_000.txt" in skipped[copied.cutouts[0]]
    assert "there is no such file" in skipped[copied.cutouts[1]]


def test_without_any_points_every_query_is_reported(pipeline, copied, tmp_path):
    shutil.rmtree(copied.folder / "database/alignments")
    assert run(pipeline, copied, tmp_path / "out", "--feature", "sift") == 0
    skipped = json.loads((tmp_path / "out" / "run.json").read_text())["counts"]["skipped"]
    assert skipped["IMG_0000.JPG, sparse"] == "none of its cutouts has features and points"


def test_early_exit_matches_fewer_pairs(pipeline, scene, finished, tmp_path):
    text = (ROOT / "configs" / "inloc.yaml").read_text()
    text = text.replace("enough_inliers: null", "enough_inliers: 20").replace(
        "num_first: 10", "num_first: 2"
    )
    path = tmp_path / "early.yaml"
    path.write_text(text)
    pairs = tmp_path / "pairs.txt"
    order = [scene.cutouts[k] for k in (1, 0, 2)]
    pairs.write_text("".join(f"{q} {c}\n" for q in scene.queries for c in order))
    output = tmp_path / "out"
    more = "--config", path, "--retrieval", pairs, "--feature", "sift"
    assert run(pipeline, scene, output, *more) == 0
    with features_h5.open_h5(output / "matches.h5") as file:
        assert sum(len(file[query]) for query in file) == 4
    assert max(e[0] for e in errors_in(output / "poses.txt", scene).values()) < 0.01


def test_shards_and_a_cluster_find_the_same(pipeline, scene, finished, tmp_path, monkeypatch):
    sharded, on_cluster = tmp_path / "sharded", tmp_path / "cluster"
    command = partial(run, pipeline, scene, sharded, "--feature", "sift")
    run_all_shards(command, sharded)
    assert command() == 0
    asked = cluster_here(monkeypatch)
    engine = ["--engine", "ray", "--address", "somewhere"]
    assert run(pipeline, scene, on_cluster, "--feature", "sift", *engine) == 0
    assert [unit for unit, _ in asked] == ["image", "pair"]
    for output in (sharded, on_cluster):
        assert_same_data(output, finished)
        assert (output / "poses.txt").read_text() == (finished / "sparse/poses.txt").read_text()


def test_threads_find_the_same(pipeline, scene, finished, tmp_path):
    text = (ROOT / "configs" / "inloc.yaml").read_text()
    path = tmp_path / "threads.yaml"
    path.write_text(text.replace("workers: 1", "workers: 3"))
    more = "--config", path, "--feature", "sift", "--method", "sparse+pv"
    assert run(pipeline, scene, tmp_path / "out", *more) == 0
    poses = (finished / "sparse+pv" / "poses.txt").read_text()
    assert (tmp_path / "out" / "poses.txt").read_text() == poses


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--feature", "surf"], "there is no feature 'surf'"),
        (["--retrieval", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--retrieval", "nowhere.mat"], "nowhere.mat: there is no such file"),
        (["--intrinsics", "nowhere.txt"], "nowhere.txt: cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence(pipeline, scene, tmp_path, capsys, more, expected):
    feature = [] if "--feature" in more else ["--feature", "sift"]
    assert run(pipeline, scene, tmp_path / "out", *feature, *more) == 1
    error = capsys.readouterr().err
    assert f"inloc: {expected}" in error


def test_a_folder_of_another_layout_is_one_sentence(pipeline, scene, tmp_path, capsys):
    assert run(pipeline, replace(scene, folder=tmp_path), tmp_path / "out") == 1
    assert "holds no image; InLoc's layout has them there" in capsys.readouterr().err


def test_the_yaml_in_the_repository_is_the_default(pipeline):
    assert config.load(pipeline.InLoc, pipeline.CONFIG) == pipeline.InLoc()


def test_two_results_are_combined_by_their_scores(pipeline, scene, finished, tmp_path):
    paths = [str(finished / m / "ImgList.mat") for m in ("sparse+pv", "sparse+pv")]
    output = tmp_path / "out"
    more = "--combine", *paths, "--output", str(output), "--ground-truth", str(scene.truth)
    assert pipeline.run_command("inloc", lambda: pipeline.main(list(more))) == 0
    expected = read_poses(finished / "sparse+pv" / "poses.txt")
    for name, pose in read_poses(output / "poses.txt").items():
        assert np.allclose(pose.matrix(), expected[name].matrix(), atol=1e-6)
    scores = json.loads((output / "run.json").read_text())["scores"]
    assert scores["combined"]["recall_0.25m_10deg"] == 1
    shutil.copy(output / "poses.txt", tmp_path)
    more = "--combine", *paths, "--output", str(tmp_path)
    assert pipeline.run_command("inloc", lambda: pipeline.main(list(more))) == 1


@pytest.fixture(scope="module")
def verifier(scene):
    data = inloc.read_inloc(scene.folder)
    cameras = {query: inloc_camera(SIZE) for query in scene.queries}
    options = DensePVOptions()
    clouds = CloudCache(data, options, MapCache())
    return DenseVerifier(options=options, data=data, cameras=cameras, clouds=clouds)


def moved(scene, query, cutout, shift):
    """The true pose with its camera `shift` metres aside, in the camera's own axes."""
    pose = scene.poses[inloc.short_name(query)]
    translation = pose.translation - np.array(shift)
    rigid3d = pycolmap.Rigid3d(pycolmap.Rotation3d(pose.rotation), translation)
    return RankedPose(
        cutout=cutout, pose=pose_numbers(rigid3d), num_matches=9, num_inliers=9, score=0.0
    )


@pytest.mark.parametrize("number", [0, 1])
def test_dense_verification_prefers_the_true_pose_to_ones_10_cm_away(scene, verifier, number):
    query = scene.queries[number]
    shifts = [(0.1, 0, 0), (-0.1, 0, 0), (0, 0.1, 0), (0, -0.1, 0), (0, 0, 0.1), (0, 0, -0.1)]
    shifts.insert(3, (0.0, 0.0, 0.0))
    poses = [moved(scene, query, scene.cutouts[1], shift) for shift in shifts]
    found = rerank(verifier, QueryPoses(name=query, poses=tuple(poses)))
    assert found.best.pose == poses[3].pose
    assert found.poses[0].score > 1.05 * found.poses[1].score
    assert len(found.poses) == 7


def test_a_pose_by_a_few_of_hundreds_of_inliers_is_not_preferred(scene, verifier):
    query, cutout = scene.queries[0], scene.cutouts[1]
    off = replace(moved(scene, query, cutout, (0.1, 0, 0)), num_inliers=271)
    true = moved(scene, query, cutout, (0.0, 0.0, 0.0))
    few = replace(true, num_inliers=5)
    found = rerank(verifier, QueryPoses(name=query, poses=(off, few)))
    assert found.best.pose == off.pose
    assert found.poses[1].score == 0
    enough = replace(true, num_inliers=20)
    assert rerank(verifier, QueryPoses(name=query, poses=(off, enough))).best.pose == true.pose


def test_a_pose_that_sees_nothing_scores_zero(scene, verifier):
    away = moved(scene, scene.queries[0], scene.cutouts[0], (0.0, 0.0, 500.0))
    nowhere = replace(away, cutout=f"database/cutouts/{FLOOR}/777/DUC_cutout_777_0_0.jpg")
    image = torch.rand(3, SIZE[1], SIZE[0])
    assert verifier.score(scene.queries[0], image, away) == 0
    assert verifier.score(scene.queries[0], image, nowhere) == 0
    assert verifier.score(scene.queries[0], image, replace(away, pose=None)) == 0


def test_the_scene_is_rendered_as_it_was_photographed(scene, verifier):
    query = scene.queries[1]
    image, mask = verifier.render(query, moved(scene, query, scene.cutouts[1], (0, 0, 0)))
    photograph = torch.from_numpy(np.array(Image.open(scene.folder / query))) / 255
    difference = (image.permute(1, 2, 0) - photograph).abs().mean(dim=2)[mask]
    assert mask.float().mean() > 0.6
    assert difference.median() < 0.04


def test_cameras_by_rule_and_by_list(scene, finished, tmp_path):
    sizes = Extracted.read(finished / "features.h5", scene.queries).sizes
    first = {scene.queries[0]: sizes[scene.queries[0]]}
    found = query_cameras(CameraOptions(), scene.folder, sizes)
    camera = found[scene.queries[0]]
    assert camera.params.tolist() == pytest.approx([400 * 28 / 36, 200, 150])
    assert camera.focal_length == pytest.approx(query_camera().focal)
    assert inloc_camera((4032, 3024)).focal_length == 3136
    listed = tmp_path / "intrinsics.txt"
    listed.write_text("IMG_0000.JPG SIMPLE_PINHOLE 400 300 350 200 150\n")
    options = CameraOptions(intrinsics=listed)
    one = query_cameras(options, scene.folder, first)
    assert one[scene.queries[0]].focal_length == 350
    with pytest.raises(ValueError, match=r"intrinsics\.txt: lacks IMG_0001\.JPG"):
        query_cameras(options, scene.folder, sizes)
    listed.write_text("IMG_0000.JPG SIMPLE_PINHOLE 401 300 350 200 150\n")
    with pytest.raises(ValueError, match="is 400 x 300 pixels, but its camera 401 x 300"):
        query_cameras(options, scene.folder, first)


def test_the_focal_length_of_exif(scene, tmp_path):
    """Without one in the file it is the rule's."""
    query = scene.queries[0]
    (tmp_path / query).parent.mkdir(parents=True)
    image = Image.open(scene.folder / query)
    exif = Image.Exif()
    exif[0x8769] = {0xA405: 36}  # FocalLengthIn35mmFilm
    image.save(tmp_path / query, exif=exif)
    options = CameraOptions(focal="exif")
    sizes = {query: SIZE}
    read = query_cameras(options, tmp_path, sizes)[query]
    rule = query_cameras(options, scene.folder, sizes)[query]
    assert rule.focal_length == pytest.approx(400 * 28 / 36)
    assert read.focal_length > 1.2 * rule.focal_length


def test_real_rooms(pipeline, shared, tmp_path):
    """RootSIFT on photographs: every query within 25 cm, most within 5."""
    folder = shared / "data/inloc-mini"
    pairs, truth = folder / "pairs-query-exhaustive.txt", folder / "ground_truth.txt"
    given = [
        "--dataset",
        folder,
        "--ground-truth",
        truth,
        "--retrieval",
        pairs,
        "--feature",
        "sift",
    ]
    output = tmp_path / "out"
    arguments = [str(a) for a in (*given, "--output", output)]
    assert pipeline.run_command("inloc", lambda: pipeline.main(arguments)) == 0
    scores = json.loads((output / "run.json").read_text())["scores"]["sparse"]
    assert scores["recall_0.25m_10deg"] == 1
    assert scores["recall_0.05m_1deg"] >= 9 / 12
