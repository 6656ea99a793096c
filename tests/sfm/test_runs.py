"""The main jobs from images to results, through kills and bad input, as a user meets them."""

import json
import random
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from killing import run_until_killed
from PIL import Image
from scripts import load

from d2_hloc.app import cli
from d2_hloc.core import config
from d2_hloc.features import extraction
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap, read_model
from d2_hloc.matching.pairs import read_pairs
from d2_hloc.refinement import tracks as track_refinement
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.refinement.tracks import refine_tracks
from d2_hloc.sfm import pose_errors
from d2_hloc.sfm.database import verified_matches
from d2_hloc.sfm.localize import find_model_source
from d2_hloc.sfm.options import Localize, Reconstruct
from d2_hloc.sfm.poses_file import read_poses

CONFIGS = Path(__file__).parents[2] / "configs"
CLI = "-m", "d2_hloc.app.cli"
RESIZED = "--resize-max", "288"


@pytest.fixture(scope="module")
def scene(demo, tmp_path_factory):
    """The demo's rendered scene, with fewer views."""
    folder = shutil.copytree(demo, tmp_path_factory.mktemp("demo") / "scene")
    for name in ("view_00", "view_01", "view_02", "view_09", "view_10", "view_11"):
        (folder / "images" / f"{name}.jpg").unlink()
    return folder


def command(scene: Path, output: Path, images: Path | None = None) -> list[str]:
    """Reconstruct the scene, or a copy of its images, at a small size."""
    intrinsics = ["--intrinsics", str(scene / "intrinsics.txt")]
    return ["reconstruct", str(images or scene / "images"), str(output), *RESIZED, *intrinsics]


def contents(path: Path) -> dict[str, bytes]:
    """Every dataset of an HDF5 file."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def poses(output: Path) -> dict[str, np.ndarray]:
    model = read_model(output / "sparse")
    return {name: pose.matrix() for name, pose in pose_errors.model_poses(model).items()}


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory):
    """An undisturbed run."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert cli.main(command(scene, output)) == 0
    return output


def copied_features(whole: Path, output: Path) -> Path:
    """A folder in which a run begins with the features of another."""
    output.mkdir()
    shutil.copy(whole / "features.h5", output)
    return output


def assert_same_results(output: Path, expected: Path) -> None:
    for name in ("features.h5", "matches.h5", "refined.h5"):
        assert contents(output / name) == contents(expected / name)
    found, wanted = poses(output), poses(expected)
    assert sorted(found) == sorted(wanted)
    for name, pose in found.items():
        np.testing.assert_allclose(pose, wanted[name], atol=1e-6)


@pytest.mark.parametrize("stage", [b"match:", b"verify:", b"refine", b"map:"])
def test_a_run_killed_in_a_stage_ends_in_the_same_files_and_model(scene, whole, tmp_path, stage):
    output = tmp_path / "out"
    shutil.copytree(whole, output, ignore=shutil.ignore_patterns("matches.h5", "*.db", "sparse"))
    record = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps(record | {"done": {}}))
    arguments = command(scene, output)
    for seconds in (0.02, 0.15, 0.3):
        run_until_killed([*CLI, *arguments], seconds, stage)
    assert cli.main(arguments) == 0
    assert_same_results(output, whole)


def test_pairs_that_were_refined_are_not_refined_again(scene, whole, tmp_path, monkeypatch):
    output, options = tmp_path / "refined.h5", RefinementOptions(enabled=True)
    verified = verified_matches(whole / "database.db", whole / "matches.h5", lambda _: True)
    given = options, scene / "images", whole / "features.h5"
    original, calls = track_refinement.refine_matches, []

    def until_killed(*arguments):
        calls.append(len(arguments[3]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as context:
        context.setattr(track_refinement, "refine_matches", until_killed)
        with pytest.raises(KeyboardInterrupt):
            refine_tracks(*given, verified, output)
        fewer = dict(list(verified.items())[:-1])
        calls.clear()
        with pytest.raises(KeyboardInterrupt):  # other matches: another work
            refine_tracks(*given, fewer, output)
        calls[:] = [0] * 4
        refine_tracks(*given, verified, output)
    again = len(calls) - 4
    undisturbed = tmp_path / "undisturbed" / "refined.h5"
    undisturbed.parent.mkdir()
    with monkeypatch.context() as context:
        calls[:] = [0] * 4
        context.setattr(track_refinement, "refine_matches", until_killed)
        refine_tracks(*given, verified, undisturbed)
    assert again == len(calls) - 4 - 3
    assert contents(output) == contents(undisturbed)
    assert [p.name for p in output.parent.glob("refined*")] == ["refined.h5"]


def test_the_precision_of_shallow_maps_is_an_option_that_the_file_records(scene, whole, tmp_path):
    verified = verified_matches(whole / "database-raw.db", whole / "matches.h5")
    options = RefinementOptions(enabled=True, precision="float16")
    output = tmp_path / "refined.h5"
    refine_tracks(options, scene / "images", whole / "features.h5", verified, output)
    files = whole / "refined.h5", output
    recorded = [features_h5.read_configuration(f)["refinement"]["precision"] for f in files]
    assert recorded == ["float32", "float16"]
    differences = []
    for name in features_h5.extracted_names(whole / "features.h5"):
        before, after = (features_h5.read_keypoints(f, name) for f in files)
        differences.append(np.abs(after - before).max(axis=1))
    assert (np.concatenate(differences) > 0).any()
    assert (np.concatenate(differences) < 0.1).mean() > 0.95


@pytest.mark.parametrize(
    "kills", [3, pytest.param(10, marks=pytest.mark.slow)], ids=["3 kills", "10 kills"]
)
def test_a_killed_run_ends_in_the_same_files_and_model(scene, whole, tmp_path, kills):
    arguments, rng = command(scene, tmp_path / "out"), random.Random(kills)
    killed = 0
    while killed < kills:
        if run_until_killed([*CLI, *arguments], rng.uniform(0.2, 4)):
            killed += 1
        else:  # finished before the kill: begin anew, so that earlier stages are killed too
            shutil.rmtree(tmp_path / "out")
    assert cli.main(arguments) == 0
    assert_same_results(tmp_path / "out", whole)


def test_output_has_its_one_shape(whole):
    names = {p.name for p in whole.iterdir()}
    wanted = {"features.h5", "matches.h5", "database.db", "sparse", "report.html", "run.json"}
    assert wanted <= names
    assert not [n for n in names if n.endswith((".parts", ".writing", ".merging", ".mapping"))]
    record = json.loads((whole / "run.json").read_text())
    assert {"configuration", "versions", "counts", "timings", "scores"} <= set(record)
    assert record["scores"]["registered_images"] == 6


def test_localizes_views_that_were_kept_out(scene, whole, tmp_path, capsys):
    output = tmp_path / "poses"
    options = ["--intrinsics", str(scene / "intrinsics.txt")]
    options += ["--ground-truth", str(scene / "ground_truth.txt")]
    assert cli.main(["localize", str(whole), str(scene / "queries"), str(output), *options]) == 0
    assert re.search(r"localized queries +3 of 3\n", capsys.readouterr().out)
    assert len((output / "poses.txt").read_text().splitlines()) == 3
    assert (output / "report.html").is_file()


def test_features_are_fine_tuned_on_the_place_where_they_localize(scene, whole, tmp_path, capsys):
    """Photos -> model (`whole`) -> depth maps -> training scene -> weights -> localization."""
    dense, place, trained = tmp_path / "dense", tmp_path / "place", tmp_path / "trained"
    small = ["--max-image-size", "160"]
    assert cli.main(["dense", str(whole), str(dense), *small]) == 0
    assert (dense / "report.html").is_file()
    assert cli.main(["make-training-scene", str(dense), str(dense), str(place)]) == 0

    conf = tmp_path / "tiny.yaml"
    conf.write_text(
        "{source: megadepth, held_back_pairs_per_scene: 2, megadepth: {crop: 64, min_overlap: 0.05,"
        " pairs_per_scene: 4}, training: {epochs: 1, min_correspondences: 8, device: cpu}}"
    )
    arguments = ["--config", conf, "--dataset", place, "--output", trained]
    train = load("train")
    assert train.run_command("train", lambda: train.main(list(map(str, arguments)))) == 0

    weights = ["--weights", str(trained / "best.safetensors")]
    weights += ["--intrinsics", str(scene / "intrinsics.txt")]
    output = tmp_path / "poses"
    capsys.readouterr()
    assert cli.main(["localize", str(whole), str(scene / "queries"), str(output), *weights]) == 0
    assert re.search("localized queries +3 of 3", capsys.readouterr().out)
    assert not find_model_source(output / "model").has_given_poses  # they are the reconstruction's
    made_by = json.loads((output / "model" / "run.json").read_text())["configuration"]
    assert made_by["extraction"]["d2net"]["weights"] == str(trained / "best.safetensors")
    assert made_by["extraction"]["resize_max"] == int(RESIZED[1])  # as the model's


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["localize", "WHOLE", "nowhere", "OUT", "--weights", "d2_ots"],
            "nowhere: there is no such",
        ),
        (
            ["localize", "WHOLE", "IMAGES", "WHOLE", "--weights", "d2_ots"],
            "is the model's own folder",
        ),
        (["localize", "WHOLE", "IMAGES", "OUT", "--weights", "text.pth"], "text.pth: "),
        (["dense", "IMAGES", "OUT"], "does not say where its images are; name them by --images"),
        (
            ["dense", "WHOLE", "OUT", "--stage", "maps", "--engine", "ray"],
            "leave --shard and --stage",
        ),
    ],
)
def test_mistakes_cost_nothing(scene, whole, tmp_path, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(tmp_path)
    Path("text.pth").write_text("no weights")
    known = {"WHOLE": str(whole), "IMAGES": str(scene / "images"), "OUT": "out"}
    assert cli.main([known.get(a, a) for a in arguments]) == 1
    assert text in capsys.readouterr().err
    assert not list(Path("out").rglob("*.h5"))


def test_a_bad_checkpoint_leaves_nothing_that_stops_the_good_one(scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.pth").write_text("no weights")
    small = ["extract", str(scene / "images"), "f.h5", "--resize-max", "64"]
    assert cli.main([*small, "--weights", "text.pth"]) == 1
    assert cli.main(small) == 0


def test_photographs_that_were_replaced_have_no_depth(scene, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "model")
    shutil.copytree(scene / "images", tmp_path / "images")
    path = tmp_path / "model" / "run.json"
    record = json.loads(path.read_text())
    record["configuration"]["images"] = str(tmp_path / "images")
    path.write_text(json.dumps(record))
    first, second = sorted((tmp_path / "images").iterdir())[:2]
    shutil.copyfile(second, first)
    assert cli.main(["dense", str(tmp_path / "model"), str(tmp_path / "out")]) == 1
    assert f"{first.name} changed since" in capsys.readouterr().err


def test_other_weights_are_for_d2net_alone(scene, tmp_path, capsys, whole):
    sift = tmp_path / "sift"
    sift.mkdir()
    shutil.copy(whole / "run.json", sift)
    shutil.copytree(whole / "sparse", sift / "sparse")
    extraction.extract(
        ExtractionOptions(feature="sift", resize_max=100),
        Path(json.loads((whole / "run.json").read_text())["configuration"]["images"]),
        sift / "features.h5",
    )
    queries = str(scene / "queries")
    arguments = [str(sift), queries, str(tmp_path / "out"), "--weights", "d2_ots"]
    assert cli.main(["localize", *arguments]) == 1
    assert "features.h5: holds sift, which has no such weights" in capsys.readouterr().err


def test_triangulates_a_known_model(scene, whole, tmp_path):
    output = tmp_path / "out"
    arguments = [str(whole / "sparse"), str(scene / "images"), str(output), *RESIZED]
    assert cli.main(["triangulate", *arguments]) == 0
    expected, found = poses(whole), poses(output)
    for name, pose in found.items():
        np.testing.assert_allclose(pose, expected[name], atol=1e-9)


def test_a_reference_that_changed_is_triangulated_anew(scene, whole, tmp_path):
    output, reference = tmp_path / "out", tmp_path / "reference"
    shutil.copytree(whole / "sparse", reference)
    copied_features(whole, output)
    (tmp_path / "conf.yaml").write_text("{refinement: {enabled: false}}")
    arguments = ["triangulate", str(reference), str(scene / "images"), str(output)]
    arguments += [*RESIZED, "--config", str(tmp_path / "conf.yaml")]
    assert cli.main(arguments) == 0
    model = read_model(reference)
    model.transform(pycolmap.Sim3d(2.0, pycolmap.Rotation3d(), np.array([1.0, 2.0, 3.0])))
    model.write(reference)
    expected = pose_errors.model_poses(model)
    assert cli.main(arguments) == 0
    for name, pose in poses(output).items():
        np.testing.assert_allclose(pose, expected[name].matrix(), atol=1e-9)


@pytest.mark.parametrize("name", ["matches.h5", "refined.h5"])
def test_what_comes_after_a_replaced_file_is_made_anew(scene, whole, tmp_path, name):
    output = tmp_path / "out"
    shutil.copytree(whole, output)
    before = json.loads((output / "run.json").read_text())["done"]
    with h5py.File(output / name, "a") as file:
        file.attrs["of"] = "another run"
    assert cli.main(command(scene, output)) == 0
    after = json.loads((output / "run.json").read_text())["done"]
    assert before["database"] != after["database"]
    assert before["map"] != after["map"]


def test_features_that_were_deleted_leave_nothing_of_the_old_ones(scene, tmp_path):
    images, output = tmp_path / "images", tmp_path / "out"
    shutil.copytree(scene / "images", images)
    arguments = [*command(scene, output, images), "--refinement", "off"]
    assert cli.main(arguments) == 0
    photo = images / "view_05.jpg"
    Image.open(photo).point(lambda value: value // 2).save(photo)
    (output / "features.h5").unlink()
    assert cli.main(arguments) == 0
    fresh = tmp_path / "fresh"
    assert cli.main([*arguments[:2], str(fresh), *arguments[3:]]) == 0
    assert contents(output / "matches.h5") == contents(fresh / "matches.h5")
    found, expected = poses(output), poses(fresh)
    for name, pose in found.items():
        np.testing.assert_allclose(pose, expected[name], atol=1e-6)


@pytest.mark.parametrize("method", ["covisibility", "poses"])
def test_pairs_come_from_the_model_that_is_triangulated(scene, whole, tmp_path, method):
    output = tmp_path / "out"
    copied_features(whole, output)
    conf = tmp_path / "conf.yaml"
    conf.write_text("{pairs: {count: 1, max_angle: 180}, refinement: {enabled: false}}")
    options = [*RESIZED, "--pairs", method, "--config", str(conf)]
    assert cli.main(["triangulate", str(whole), str(scene / "images"), str(output), *options]) == 0
    listed = read_pairs(output / "pairs.txt")
    assert {name for pair in listed for name in pair} == set(poses(whole))
    assert len(listed) < len(poses(whole))
    assert read_model(output / "sparse").num_points3D() > 0


def test_both_spellings_of_a_model_are_taken(scene, whole, tmp_path):
    images, queries = str(scene / "images"), str(scene / "queries")
    known, output = copied_features(whole, tmp_path / "known"), str(tmp_path / "poses")
    raw = ["--refinement", "off"]
    assert cli.main(["triangulate", str(whole), images, str(known), *RESIZED, *raw]) == 0
    assert cli.main(["localize", str(whole / "sparse"), queries, output, *raw]) == 0


def test_triangulation_refuses_images_of_another_size(scene, whole, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for path in (scene / "images").iterdir():
        Image.open(path).reduce(2).save(images / path.name)
    arguments = [str(whole / "sparse"), str(images), str(tmp_path / "out"), *RESIZED]
    assert cli.main(["triangulate", *arguments]) == 1
    assert "but its camera" in capsys.readouterr().err


@pytest.mark.parametrize("given", [True, False], ids=["of given poses", "reconstructed"])
def test_errors_need_the_frame_of_the_truth(scene, whole, tmp_path, capsys, caplog, given):
    model = whole
    if given:
        model = copied_features(whole, tmp_path / "known")
        reference = scene_model(scene, whole, tmp_path / "reference")
        arguments = [str(reference), str(scene / "images"), str(model), *RESIZED]
        assert cli.main(["triangulate", *arguments, "--refinement", "off"]) == 0
    kept = {path.name for path in (scene / "queries").iterdir()}
    lines = (scene / "ground_truth.txt").read_text().splitlines(keepends=True)
    truth = tmp_path / "truth.txt"
    truth.write_text("".join(x for x in lines if x.split()[0] in kept))
    arguments = ["localize", str(model), str(scene / "queries"), str(tmp_path / "poses")]
    arguments += ["--intrinsics", str(scene / "intrinsics.txt"), "--ground-truth", str(truth)]
    assert cli.main(arguments) == 0
    assert ("names 0 images of the model; errors need 3" in caplog.text) != given
    assert ("mean camera-centre error, mm" in capsys.readouterr().out) == given


def scene_model(scene, whole, folder):
    """The rendered cameras at their true poses, as a model without points."""
    model = read_model(whole / "sparse")
    truth = read_poses(scene / "ground_truth.txt")
    known = pycolmap.Reconstruction()
    for camera in model.cameras.values():
        known.add_camera_with_trivial_rig(camera)
    for i in model.images.values():
        image = pycolmap.Image(name=i.name, camera_id=i.camera_id, image_id=i.image_id)
        known.add_image_with_trivial_frame(image, truth[i.name])
    folder.mkdir()
    known.write(folder)
    return folder


def test_a_removed_image_leaves_the_model_and_an_added_one_joins_it(scene, tmp_path):
    images, output, aside = tmp_path / "images", tmp_path / "out", tmp_path / "view_05.jpg"
    shutil.copytree(scene / "images", images)
    arguments = command(scene, output, images)
    assert cli.main(arguments) == 0
    assert len(poses(output)) == 6
    (images / aside.name).rename(aside)
    assert cli.main(arguments) == 0
    assert len(poses(output)) == 5
    queries = str(scene / "queries")
    assert cli.main(["localize", str(output), queries, str(tmp_path / "poses")]) == 0
    aside.rename(images / aside.name)
    assert cli.main(arguments) == 0
    assert len(poses(output)) == 6


def test_a_run_is_the_same_from_any_folder(scene, whole, monkeypatch, capsys):
    before = (whole / "features.h5").stat().st_ino
    monkeypatch.chdir(scene.parent)
    arguments = command(Path("scene"), whole)
    assert cli.main(arguments) == 0
    assert (whole / "features.h5").stat().st_ino == before


@pytest.mark.parametrize("name", ["sparse/images.bin", "database.db"])
def test_what_was_damaged_is_made_again(scene, whole, tmp_path, name):
    output = tmp_path / "out"
    shutil.copytree(whole, output)
    data = (output / name).read_bytes()
    (output / name).write_bytes(data[: len(data) // 2])
    assert cli.main(command(scene, output)) == 0
    assert_same_results(output, whole)


def test_a_run_that_failed_at_once_can_be_put_right(scene, tmp_path):
    arguments = command(scene, tmp_path / "out")
    assert cli.main([*arguments, "--weights", "misspelled"]) == 1
    assert cli.main([*arguments, "--ground-truth", "nowhere.txt"]) == 1
    assert not (tmp_path / "out" / "run.json").exists()
    assert run_until_killed([*CLI, *arguments], 0.1, b"extract")


def test_a_project_of_someone_else_is_not_written_over(scene, whole, tmp_path, capsys):
    project = tmp_path / "project"
    shutil.copytree(whole / "sparse", project / "sparse")
    before = {p.name: p.read_bytes() for p in (project / "sparse").iterdir()}
    assert cli.main(command(scene, project)) == 1
    assert "holds a sparse that this program did not make" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in (project / "sparse").iterdir()} == before


def test_a_folder_of_photographs_is_never_to_be_deleted(scene, capsys):
    images = str(scene / "images")
    assert cli.main(["extract", images, images]) == 1
    error = capsys.readouterr().err
    assert "is a folder; name the file itself" in error
    assert "delete" not in error


def test_another_configuration_stops_in_one_sentence(scene, whole, capsys):
    before = (whole / "features.h5").read_bytes()
    assert cli.main([*command(scene, whole), "--feature", "sift"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"d2-hloc: {whole}: was made with another configuration.")
    assert '"feature": "d2net"' in error
    assert '"feature": "sift"' in error
    assert (whole / "features.h5").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["reconstruct", "{tmp}/nowhere", "{tmp}/out"], "there is no such folder of images"),
        (["reconstruct", "{tmp}/empty", "{tmp}/out"], "holds no image"),
        (["localize", "{tmp}/empty", "{tmp}/flat", "{tmp}/out"], "give the folder of a COLMAP"),
        (["reconstruct", "{tmp}/flat", "{tmp}/out"], "has matches that agree"),
        (["reconstruct", "{tmp}/flat", "{tmp}/o", "--pairs", "poses"], "or a file of their poses"),
        (["extract", "{tmp}/flat", "{tmp}/f.h5", "--weights", "d2_tf"], "d2-hloc weights d2_tf"),
        (["match", "{tmp}/pairs.txt", "{tmp}/f.h5", "{tmp}/m.h5"], "pairs.txt: cannot be read"),
        (["reconstruct", "{tmp}/flat", "{tmp}/o", "--intrinsics", "{tmp}/i.txt"], "i.txt, line 1"),
        (["reconstruct", "{tmp}/flat", "{tmp}/o", "--config", "{tmp}/c.yaml"], "unknown key 'x'"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.setenv("D2_HLOC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    (tmp_path / "i.txt").write_text("a.png NO_SUCH_MODEL 64 48 50\n")
    (tmp_path / "c.yaml").write_text("x: 1\n")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / "flat" / name)
    assert cli.main([a.format(tmp=tmp_path) for a in arguments]) == 1
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("d2-hloc: ")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert str(tmp_path) in errors[0]


@pytest.mark.parametrize(("name", "cls"), [("reconstruct", Reconstruct), ("localize", Localize)])
def test_the_configurations_load_as_the_defaults(name, cls):
    assert config.load(cls, CONFIGS / f"{name}.yaml") == cls()
