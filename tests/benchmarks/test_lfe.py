"""The Local Feature Evaluation Benchmark on a rendered scene of its layout, and its own files."""

import csv
import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from killing import go_on_after_interruptions, run_until_killed
from PIL import Image
from scripts import load
from sharded import assert_same_data, run_all_shards

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.sfm_benchmark.data import LfeError, read_photo_collection
from d2_hloc.benchmarks.sfm_benchmark.report import PUBLISHED, published_model_rows
from d2_hloc.benchmarks.sfm_benchmark.run import PhotoReconstruction, Ratios
from d2_hloc.core import config
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap
from d2_hloc.matching.pairs import read_pairs
from d2_hloc.mvs.report import draw_depth

ROOT = Path(__file__).parents[2]
CONF = """
extraction: {resize_max: 300}
ratios: {off_the_shelf: 0.95}
dense: {max_image_size: 200, fusion: {min_num_pixels: 2}}
"""


def script():
    return load("local_feature_benchmark")


@pytest.fixture(scope="module")
def scene(demo, tmp_path_factory):
    """Six views of the rendered square, one with a camera that the database knows; a cut file."""
    folder = tmp_path_factory.mktemp("lfe") / "square"
    (folder / "images").mkdir(parents=True)
    for k in range(3, 9):
        shutil.copy(demo / "images" / f"view_0{k}.jpg", folder / "images")
    (folder / "images" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    intrinsics = (demo / "intrinsics.txt").read_text().splitlines()
    focal = float(intrinsics[0].split()[4])
    with pycolmap.Database.open(folder / "database.db") as database:
        for name in sorted(p.name for p in (folder / "images").iterdir()):
            camera = pycolmap.Camera(
                model="SIMPLE_RADIAL", width=640, height=480, params=[focal, 320, 240, 0]
            )
            camera.has_prior_focal_length = name == "view_03.jpg"
            camera_id = database.write_camera(camera)
            database.write_image(pycolmap.Image(name=name, camera_id=camera_id))
    return folder


@pytest.fixture
def conf(tmp_path):
    path = tmp_path / "conf.yaml"
    path.write_text(CONF)
    return path


def run(scene, output, conf, *more):
    """`more` may switch refinement on again."""
    given = "--dataset", scene, "--output", output, "--config", conf, "--refinement", "off"
    arguments = [str(a) for a in (*given, *more)]
    return run_command("lfe", lambda: script().main(arguments))


def record(output):
    return json.loads((output / "run.json").read_text())


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    (output.with_suffix(".yaml")).write_text(CONF)
    before = hashlib.sha256((scene / "database.db").read_bytes()).hexdigest()
    features = ["--feature", "d2net", "sift", "--export"]
    assert run(scene, output, output.with_suffix(".yaml"), *features) == 0
    assert hashlib.sha256((scene / "database.db").read_bytes()).hexdigest() == before
    return output


def test_the_table_holds_a_row_a_feature(whole):
    with (whole / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["method"] for r in rows] == ["d2net", "sift"]
    for row in rows:
        assert row["registered"] == "6 of 6"
        assert int(row["points"]) > 50
        assert int(row["dense points"]) > 500
    assert "Table 1" in (whole / "report.html").read_text()


def test_output_has_its_one_shape(whole):
    names = {p.name for p in (whole / "d2net").iterdir()}
    wanted = {"features.h5", "matches.h5", "database.db", "sparse", "fused.ply", "report.html"}
    assert wanted | {"run.json"} <= names
    counts = record(whole / "d2net")["counts"]
    assert list(counts["failed_images"]) == ["cut.jpg"]
    assert "Depth maps" in (whole / "d2net" / "report.html").read_text()


def test_a_rerun_makes_nothing_anew(scene, whole, tmp_path, conf):
    output = tmp_path / "out"
    shutil.copytree(whole / "d2net", output)
    before = (output / "fused.ply").stat().st_ino, (output / "sparse" / "images.bin").stat().st_ino
    assert run(scene, output, conf, "--feature", "d2net") == 0
    after = (output / "fused.ply").stat().st_ino, (output / "sparse" / "images.bin").stat().st_ino
    assert after == before


def test_a_run_killed_in_each_stage_ends_in_the_same_files(scene, whole, tmp_path, conf):
    """One run: each start gets to the next stage, and is killed there."""
    output = tmp_path / "out"
    arguments = ["--dataset", scene, "--output", output, "--config", conf, "--feature", "d2net"]
    arguments += ["--refinement", "off"]
    command = [load("local_feature_benchmark").__file__, *arguments]
    for stage in ("extract", "match:", "verify:", "map:", "check images:", "depth maps:", "consis"):
        assert run_until_killed(command, 0.1, stage.encode()), stage
    assert run(scene, output, conf, "--feature", "d2net") == 0
    expected = whole / "d2net"
    maps = sorted((expected / "dense" / "stereo").rglob("*.bin"))
    assert len(maps) == 6 * 3  # photometric, geometric, normals
    for path in (expected / "fused.ply", *maps):
        assert (output / path.relative_to(expected)).read_bytes() == path.read_bytes()
    assert record(output)["scores"] == record(expected)["scores"]


def test_internet_photos_are_taken_or_counted_and_never_fatal(scene, tmp_path, conf):
    images = tmp_path / "odd" / "images"
    images.mkdir(parents=True)
    views = {k: Image.open(scene / "images" / f"view_0{k}.jpg") for k in range(3, 9)}
    views[3].save(images / "plain.jpg", quality=95)
    views[4].convert("CMYK").save(images / "cmyk.jpg", quality=95)
    deep = np.asarray(views[5].convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(images / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112], exif[0x8769] = 6, {0xA405: 60000}  # turned; a focal length of 60 m
    views[6].save(images / "wrong-exif.jpg", exif=exif, quality=95)
    views[7].convert("L").resize((2560, 1920)).save(images / "huge-grey.jpg", quality=95)
    views[8].save(images / "UPPER.JPG", quality=95)
    views[8].resize((20, 15)).save(images / "tiny.jpg")
    (images / "cut.jpg").write_bytes((images / "plain.jpg").read_bytes()[:9000])
    (images / "empty.jpg").touch()
    output = tmp_path / "out"
    assert run(images.parent, output, conf, "--feature", "d2net") == 0
    found = record(output)
    assert set(found["counts"]["failed_images"]) == {"cut.jpg", "empty.jpg"}
    assert found["counts"]["images"] == 7  # the tiny one has no features
    assert found["scores"]["registered_images"] >= 5
    assert found["scores"]["dense"]["depth_maps"] == found["scores"]["registered_images"]
    assert found["scores"]["dense"]["points"] > 500


def test_shards_find_the_same_features_and_matches(scene, whole, tmp_path, conf):
    run_all_shards(partial(run, scene, tmp_path, conf, "--feature", "d2net"), tmp_path)
    assert_same_data(tmp_path, whole / "d2net")


def test_a_lost_cloud_is_made_again(scene, whole, tmp_path, conf):
    output = tmp_path / "out"
    shutil.copytree(whole / "d2net", output)
    expected = (output / "fused.ply").read_bytes()
    (output / "fused.ply").unlink()
    assert run(scene, output, conf, "--feature", "d2net") == 0
    assert (output / "fused.ply").read_bytes() == expected


def table(path, dtype):
    """A table of the benchmark's form: its numbers of rows and columns, then the values."""
    data = path.read_bytes()
    rows, columns = np.frombuffer(data, np.int32, 2)
    return np.frombuffer(data, dtype, offset=8).reshape(rows, columns)


def test_the_benchmarks_own_files_read_back(whole):
    folder, own = whole / "d2net", whole / "d2net" / "benchmark"
    pair = read_pairs(folder / "pairs.txt")[0]
    found = features_h5.read_features(folder / "features.h5", pair[0])
    keypoints = table(own / "keypoints" / f"{pair[0]}.bin", np.float32)
    np.testing.assert_allclose(keypoints[:, :2] - 0.5, found.keypoints, atol=1e-4)
    np.testing.assert_array_equal(keypoints[:, 2], found.scales)
    descriptors = table(own / "descriptors" / f"{pair[0]}.bin", np.float32)
    np.testing.assert_array_equal(descriptors, found.descriptors.float())
    matches = table(own / "matches" / f"{pair[0]}---{pair[1]}.bin", np.uint32)
    expected = features_h5.read_matches(folder / "matches.h5", *pair)
    assert matches.tolist() == expected.pairs.tolist()


def test_cameras_come_from_the_database_where_it_knows_them(scene):
    found = read_photo_collection(scene)
    assert found.name == "square"
    assert len(found.names) == 7
    assert list(found.cameras) == ["view_03.jpg"]


def test_a_scene_without_a_database_is_its_images(scene, tmp_path):
    shutil.copytree(scene / "images", tmp_path / "s" / "images")
    assert len(read_photo_collection(tmp_path / "s").names) == 7
    with pytest.raises(LfeError, match="holds no folder images/"):
        read_photo_collection(tmp_path)


def test_the_rule_follows_the_feature_and_its_weights(tmp_path):
    ratios = Ratios()
    assert ratios.of(ExtractionOptions(feature="sift")) == 0.8
    assert ratios.of(ExtractionOptions(feature="d2net-ms")) == 0.9
    trained = config.from_dict(ExtractionOptions, {"d2net": {"weights": "d2_tf"}})
    assert ratios.of(trained) == 0.95
    assert ratios.of(ExtractionOptions(feature="disk")) is None


def test_a_feature_names_its_matcher():
    conf = PhotoReconstruction(min_matches=20)
    steps = conf.steps("d2net+lightglue")
    assert steps.extraction.feature == "d2net"
    assert steps.matching.matcher == "lightglue"
    assert steps.matching.ratio_threshold is None  # probabilities have none
    assert steps.matching.min_matches == 20
    assert conf.steps("d2net").matching.ratio_threshold == 0.9


def test_published_rows_are_of_their_scene():
    assert len(published_model_rows("Gendarmenmarkt")) == 4
    first = published_model_rows("Madrid_Metropolis")[0]
    assert list(first.values())[:3] == ["published: RootSIFT", "500 of 1344", "116K"]
    assert published_model_rows("square") == []
    assert all(len(row) == 5 for rows in PUBLISHED.values() for row in rows.values())


def test_refined_models_are_readjusted():
    raw = config.from_dict(PhotoReconstruction, {"refinement": {"enabled": False}})
    refined = PhotoReconstruction()
    assert raw.mapping.outlier_factor is None
    assert refined.mapping.outlier_factor == 5
    assert (
        config.load(PhotoReconstruction, ROOT / "configs" / "local_feature_benchmark.yaml").ratios
        == Ratios()
    )


def test_depth_is_drawn_near_bright_and_none_black():
    depth = np.array([[0.0, 1.0], [2.0, 4.0]])
    pixels = np.asarray(draw_depth(depth)).sum(axis=2)
    assert pixels[0, 0] == 0
    assert pixels[0, 1] > pixels[1, 0] > pixels[1, 1]
    assert np.asarray(draw_depth(np.zeros((2, 2)))).max() == 0


def test_goes_on_after_an_interruption_before_its_first_record(scene, tmp_path, conf):
    conf.write_text("{extraction: {resize_max: 300}, dense: {max_image_size: 96}}")
    output = tmp_path / "out"
    features = ["--feature", "sift", "--export"]
    go_on_after_interruptions(lambda: run(scene, output, conf, *features), most=1)
    assert (output / "sparse").is_dir()
