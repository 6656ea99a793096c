"""Aachen's task on a tiny data set of its real layout, rendered; and the real lists."""

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from killing import go_on_after_interruptions, run_until_killed
from PIL import Image
from scripts import load
from sharded import assert_same_data, run_all_shards

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.aachen.data import (
    AachenError,
    AachenFiles,
    read_aachen,
    survey_aachen,
)
from d2_hloc.benchmarks.aachen.results import read_truth, with_fallback
from d2_hloc.benchmarks.aachen.run import Aachen
from d2_hloc.core import config
from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.pnp import Localized
from d2_hloc.sfm.poses_file import read_poses

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "pipelines" / "aachen.py"
VIEWS = tuple(f"view_0{k}.jpg" for k in range(3, 9))
QUERIES = ("day_1.jpg", "night_1.jpg")


def script():
    return load("aachen")


def nvm_line(name, pose):
    x, y, z, w = pose.rotation.quat
    centre = pose.rotation.inverse() * -pose.translation
    numbers = [900, w, x, y, z, *centre, 0, 0]
    return " ".join([name, *(f"{n:.10g}" for n in numbers)])


@pytest.fixture(scope="module")
def dataset(demo, tmp_path_factory):
    """The rendered square: six views of the database, one of them without a pose, two queries."""
    folder = tmp_path_factory.mktemp("aachen") / "data"
    truth = read_poses(demo / "ground_truth.txt")
    lines = dict(
        line.split(maxsplit=1) for line in (demo / "intrinsics.txt").read_text().splitlines()
    )
    for part in ("3D-models", "queries"):
        (folder / part).mkdir(parents=True)
    upright = folder / "images" / "images_upright"
    named = {f"db/{v}": demo / "images" / v for v in VIEWS}
    named |= {f"query/night/phone/{q}": demo / "queries" / q for q in QUERIES}
    for name, source in named.items():
        (upright / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, upright / name)
    db = [name for name in named if name.startswith("db/")]
    queries = [name for name in named if name.startswith("query/")]
    for path, names in (
        ("3D-models/database_intrinsics.txt", db),
        ("queries/night_time_queries_with_intrinsics.txt", queries),
    ):
        text = "".join(f"{name} {lines[Path(name).name]}\n" for name in names)
        (folder / path).write_text(text)
    poses = [nvm_line(name, truth[Path(name).name]) for name in db[:-1]]
    model = "\n".join(["NVM_V3 ", "", str(len(poses)), *poses, ""])
    (folder / "3D-models" / "aachen_cvpr2018_db.nvm").write_text(model)
    pairs = [f"{a} {b}" for k, a in enumerate(db) for b in [*db[k + 1 :], *queries]]
    pairs += [f"{db[1]} {db[0]}", f"{db[1]} db/unknown.jpg"]
    (folder / "image_pairs_to_match.txt").write_text("\n".join(pairs) + "\n")
    kept = [
        x for x in (demo / "ground_truth.txt").read_text().splitlines() if x.split()[0] in QUERIES
    ]
    (folder / "ground_truth.txt").write_text("\n".join(kept) + "\n")
    with pycolmap.Database.open(folder / "database.db") as database:
        for name in named:
            camera = pycolmap.Camera.create_from_model_name(0, "SIMPLE_RADIAL", 768, 640, 480)
            camera_id = database.write_camera(camera)
            database.write_image(pycolmap.Image(name=name, camera_id=camera_id))
    return folder


@pytest.fixture
def conf(tmp_path):
    """A configuration file for small images."""
    path = tmp_path / "aachen.yaml"
    path.write_text("extraction: {resize_max: 300}\nlocalization: {min_num_inliers: 15}\n")
    return path


def arguments(dataset, output, conf, *more):
    return ["--dataset", str(dataset), "--output", str(output), "--config", str(conf), *more]


def run(dataset, output, conf, *more):
    return run_command("aachen", lambda: script().main(arguments(dataset, output, conf, *more)))


def digests(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def record(output):
    return json.loads((output / "run.json").read_text())


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    path = output.with_suffix(".yaml")
    path.write_text("extraction: {resize_max: 300}\nlocalization: {min_num_inliers: 15}\n")
    before = digests(dataset)
    assert run(dataset, output, path) == 0
    assert digests(dataset) == before
    return output


def test_places_the_queries(whole):
    scores = record(whole)["scores"]["ground_truth"]
    assert scores["poses"] == 2
    assert scores["recall_0.25m_2deg"] == 1
    assert scores["median_position_error_m"] < 0.03
    assert "recall_1m_5deg" in record(whole)["scores"]["night_until_2020"]


def test_output_has_its_one_shape(whole):
    names = {p.name for p in whole.iterdir()}
    assert {"features.h5", "matches.h5", "database.db", "sparse", "report.html"} <= names
    assert {"run.json", "poses.txt", "poses.csv", "Aachen_eval_[d2net].txt"} <= names
    lines = (whole / "Aachen_eval_[d2net].txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == sorted(QUERIES)
    report = (whole / "report.html").read_text()
    assert "published: D2-Net SS + NN" in report
    assert "hloc" in report


def test_what_is_of_no_use_is_named(whole):
    counts = record(whole)["counts"]
    assert counts["without_pose"] == ["db/view_08.jpg"]
    assert "no features of db/unknown.jpg" in " ".join(counts["failed_pairs"].values())
    assert counts["images"] == 7  # five with poses, two queries


@pytest.mark.parametrize("method", ["registration", "pnp"])
@pytest.mark.parametrize("refinement", ["on", "off"])
def test_both_methods_raw_and_refined(dataset, whole, conf, tmp_path, method, refinement):
    output = tmp_path / "out"
    output.mkdir()
    for name in ("features.h5", "matches.h5"):
        shutil.copy(whole / name, output / name)
    more = ["--method", method, "--refinement", refinement]
    assert run(dataset, output, conf, *more) == 0
    assert record(output)["scores"]["ground_truth"]["recall_0.25m_2deg"] == 1


def test_the_learned_matcher_places_the_queries(dataset, whole, conf, tmp_path):
    shutil.copy(whole / "features.h5", tmp_path / "features.h5")
    assert run(dataset, tmp_path, conf, "--matcher", "lightglue", "--refinement", "off") == 0
    made = record(tmp_path)
    assert made["scores"]["ground_truth"]["recall_0.25m_2deg"] == 1
    assert made["configuration"]["matching"]["matcher"] == "lightglue"
    assert (tmp_path / "Aachen_eval_[d2net+lightglue].txt").is_file()


def test_queries_without_listed_pairs_are_retrieved(dataset, whole, conf, tmp_path):
    copy, output = tmp_path / "data", tmp_path / "out"
    output.mkdir()
    shutil.copy(whole / "features.h5", output)
    shutil.copytree(dataset, copy)
    pairs = copy / "image_pairs_to_match.txt"
    kept = [line for line in pairs.read_text().splitlines() if "query" not in line]
    pairs.write_text("\n".join(kept) + "\n")
    assert run(copy, output, conf, "--refinement", "off") == 0
    assert record(output)["counts"]["localized"] == 2


def test_trouble_is_listed_and_the_rest_is_done(dataset, conf, tmp_path):
    """An unreadable image, a query that matches nothing, an unknown image, and a kill."""
    copy, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(dataset, copy)
    upright = copy / "images" / "images_upright"
    (upright / "db" / "view_03.jpg").write_bytes(b"no image")
    grey = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(grey).save(upright / "query" / "night" / "phone" / "night_1.jpg")
    command = [SCRIPT, *arguments(copy, output, conf, "--fallback")]
    assert run_until_killed(command, 0, b"match:")
    assert run(copy, output, conf, "--fallback") == 0
    counts = record(output)["counts"]
    assert "cannot be read as an image" in counts["failed_images"]["db/view_03.jpg"]
    assert list(counts["not_localized"]) == ["query/night/phone/night_1.jpg"]
    assert "given the pose of db/" in counts["not_localized"]["query/night/phone/night_1.jpg"]
    assert "no features of db/unknown.jpg" in " ".join(counts["failed_pairs"].values())
    assert len(read_poses(output / "poses.txt")) == 2
    with (output / "poses.csv").open() as file:
        rows = {Path(row["name"]).name: row for row in csv.DictReader(file)}
    assert int(rows["day_1.jpg"]["num_inliers"]) >= 15
    assert rows["night_1.jpg"]["num_inliers"] == "0" or rows["night_1.jpg"]["reason"]


def test_shards_find_the_same_features_and_matches(dataset, whole, conf, tmp_path, capsys):
    run_all_shards(partial(run, dataset, tmp_path, conf), tmp_path)
    assert run(dataset, tmp_path, conf, "--shard", "2/2") == 0
    assert "run the command without --shard" in capsys.readouterr().out
    assert not (tmp_path / "database.db").exists()
    assert_same_data(tmp_path, whole)


def test_a_fallback_is_the_first_listed_pose():
    pose = pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([1.0, 2, 3]))
    found = [Localized(name="q", reason="3 inliers of 9 matches"), Localized(name="r", reason="no")]
    placed = with_fallback(found, {"q": ["a", "b"], "r": ["a"]}, {"b": pose})
    assert placed[0].cam_from_world is pose
    assert placed[0].reason == "3 inliers of 9 matches; given the pose of b"
    assert placed[1] == found[1]


def test_truth_may_leave_folders_out(tmp_path):
    (tmp_path / "truth.txt").write_text("a.jpg 1 0 0 0 0 0 0\nnight/b.jpg 1 0 0 0 0 0 0\n")
    found = read_truth(tmp_path / "truth.txt", ["night/a.jpg", "night/b.jpg", "night/c.jpg"])
    assert sorted(found) == ["night/a.jpg", "night/b.jpg"]


def test_both_layouts_are_found(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "data")
    upright = tmp_path / "data" / "images" / "images_upright"
    upright.rename(tmp_path / "data" / "images_upright")
    (tmp_path / "data" / "database.db").unlink()
    data = read_aachen(AachenFiles(), tmp_path / "data")
    assert data.images == tmp_path / "data" / "images_upright"
    assert len(data.names) == 8
    assert len(data.pairs) == 15 + 12 + 1  # the repeated one counts once


def test_all_that_is_missing_is_named_at_once(tmp_path, capsys, conf):
    assert run(tmp_path / "nothing", tmp_path / "out", conf) == 1
    error = capsys.readouterr().err
    for what in ("the images", "poses", "intrinsics", "pairs to match", "a list of queries"):
        assert what in error
    assert len(error.strip().splitlines()) == 1


def test_the_real_lists_make_the_whole_problem(shared):
    """Aachen v1's own database and pair list: everything but pixels, poses and intrinsics."""
    folder = shared / "data" / "real-metadata" / "aachen"
    before = digests(folder)
    data = survey_aachen(AachenFiles(), folder)
    assert digests(folder) == before
    assert len(data.names) == 5401
    assert len(data.queries) == 98
    assert len(data.pairs) == 14941
    listed = data.query_pairs()
    assert {len(images) for images in listed.values()} == {17, 20}
    assert {name for pair in data.pairs for name in pair} <= set(data.names)
    assert len(data.missing) == 4
    with pytest.raises(AachenError, match=r"missing are the images \(images/images_upright or"):
        read_aachen(AachenFiles(), folder)


@pytest.mark.parametrize("name", ["aachen", "aachen_v1_1"])
def test_the_configurations_differ_in_files_alone(name):
    conf = config.load(Aachen, ROOT / "configs" / f"{name}.yaml")
    assert replace(conf, files=AachenFiles()) == Aachen()


def test_v1_is_the_default():
    assert config.load(Aachen, ROOT / "configs" / "aachen.yaml") == Aachen()


def test_several_features_are_compared(dataset, whole, conf, tmp_path, capsys):
    """Each in a folder of its own; another may join them later."""
    output = tmp_path / "out"
    shutil.copytree(whole, output / "d2net")
    assert run(dataset, output, conf, "--feature", "d2net", "sift") == 0
    scores = record(output)["scores"]
    assert list(scores) == ["d2net", "sift"]
    assert scores["sift"]["ground_truth"]["recall_0.25m_2deg"] == 1
    lines = [line.split()[:6] for line in capsys.readouterr().out.splitlines()]
    assert ["sift,", "refined", "2", "of", "2", "100.0"] in lines
    report = (output / "report.html").read_text()
    assert "published: D2-Net SS + NN" in report
    assert "sift, refined" in report
    assert run(dataset, output, conf, "--feature", "d2net", "sift", "--method", "pnp") == 1
    assert '"method": "pnp"' in capsys.readouterr().err


def test_goes_on_after_interruptions_before_its_first_records(dataset, whole, tmp_path, conf):
    output = tmp_path / "out"
    go_on_after_interruptions(lambda: run(dataset, output, conf), most=1)
    for name in ("poses.txt", "Aachen_eval_[d2net].txt"):
        assert (output / name).read_text() == (whole / name).read_text()
