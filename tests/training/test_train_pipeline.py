"""pipelines/train.py, from photographs and from scenes with depth to checkpoints and report."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from killing import go_on_after_interruptions
from PIL import Image
from scripts import load
from skimage import data

from d2_hloc.core import config
from d2_hloc.network.weights.files import load_weights

ROOT = Path(__file__).parents[2]
TINY = {
    "min_correspondences": 8,
    "epochs": 1,
    "device": "cpu",
    "loss": {"safe_radius": 1},
}


@pytest.fixture(scope="module")
def pipeline():
    return load("train")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "coffee", "chelsea"):
        Image.fromarray(getattr(data, name)()[:200, :240]).save(folder / f"{name}.png")
    return folder


def write_config(path, **values):
    """A YAML with tiny crops and one epoch."""
    training = TINY | values.pop("training", {})
    tiny = {"photographs": {"crop": 64}, "megadepth": {"crop": 64, "pairs_per_scene": 2}}
    path.write_text(yaml.safe_dump(tiny | values | {"training": training}))
    return path


def run(pipeline, *arguments):
    """The command, in this process; its exit status."""
    return pipeline.run_command("train", lambda: pipeline.main([str(a) for a in arguments]))


@pytest.fixture(scope="module")
def finished(pipeline, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    conf = write_config(folder / "tiny.yaml")
    command = "--config", conf, "--dataset", photos, "--output", folder / "out"
    assert run(pipeline, *command) == 0
    return folder / "out", command


def test_a_run_leaves_checkpoints_tables_and_a_report(finished):
    output, _ = finished
    names = {path.name for path in output.iterdir() if not path.name.endswith(".cache")}
    assert names == {
        "best.pth",
        "best.safetensors",
        "best_small.safetensors",
        "last.pth",
        "losses.csv",
        "report.html",
        "run.json",
        "validation.csv",
    }
    html = (output / "report.html").read_text()
    assert html.count("<img ") == 2  # correspondences and scores of the photograph held back
    assert "soft detection scores" in html
    assert "matching accuracy at best" in html
    record = json.loads((output / "run.json").read_text())
    assert record["counts"] == {"pairs": 2, "held_back": 1}
    assert record["scores"]["last"]["epoch"] == 1
    assert set(load_weights(str(output / "best.pth"))) == set(load_weights("d2_ots"))


def test_the_same_command_again_trains_nothing_more_and_more_epochs_do(pipeline, finished):
    output, command = finished
    before = (output / "losses.csv").read_text()
    assert run(pipeline, *command) == 0
    assert (output / "losses.csv").read_text() == before
    assert run(pipeline, *command, "--epochs", 2) == 0
    assert (output / "losses.csv").read_text().startswith(before)
    assert len((output / "losses.csv").read_text().splitlines()) == 5


def test_goes_on_after_interruptions_before_any_record(pipeline, photos, finished, tmp_path):
    output = tmp_path / "out"
    conf = write_config(tmp_path / "tiny.yaml")
    command = "--config", conf, "--dataset", photos, "--output", output
    assert go_on_after_interruptions(lambda: run(pipeline, *command)) > 1
    for name in ("losses.csv", "validation.csv"):
        made = (output / name).read_text()
        assert len(made.splitlines()) > 1
        assert (finished[0] / name).read_text().startswith(made)  # which may have gone further


@pytest.mark.parametrize("name", ["losses.csv", "last.pth", "best.safetensors"])
def test_files_of_others_are_not_written_over(pipeline, photos, tmp_path, capsys, name):
    output = tmp_path / "out"
    output.mkdir()
    (output / name).write_text("mine")
    conf = write_config(tmp_path / "tiny.yaml")
    assert run(pipeline, "--config", conf, "--dataset", photos, "--output", output) == 1
    assert f"holds a {name} that this program did not make" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == [name]


def test_another_configuration_is_refused(pipeline, finished, photos, tmp_path, capsys):
    output, _ = finished
    conf = write_config(tmp_path / "other.yaml", training={"learning_rate": 0.1})
    assert run(pipeline, "--config", conf, "--dataset", photos, "--output", output) == 1
    assert "another configuration" in capsys.readouterr().err


@pytest.fixture
def megadepth(tmp_path):
    """Two scenes in LoFTR's form: a photograph, and itself 16 pixels further, on a far wall."""
    photo = data.astronaut()[:160, :216]
    for name, left in (("a", 0), ("b", 16)):
        Image.fromarray(photo[:, left : left + 200]).save(tmp_path / f"{name}.png")
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["depth"] = np.full((160, 200), 10.0)
    moved = np.eye(4)
    moved[0, 3] = -16 * 10 / 200
    pairs = np.empty(1, dtype=object)
    pairs[0] = ((0, 1), 0.9, None)
    (tmp_path / "scene_info").mkdir()
    for scene in ("0001", "0002"):
        np.savez(
            tmp_path / "scene_info" / f"{scene}.npz",
            image_paths=np.array(["a.png", "b.png"], dtype=object),
            depth_paths=np.array(["a.h5", "b.h5"], dtype=object),
            intrinsics=np.array([[[200.0, 0, 100], [0, 200, 80], [0, 0, 1]]] * 2),
            poses=np.array([np.eye(4), moved]),
            pair_infos=pairs,
        )
    return tmp_path


def test_megadepth_trains_with_listed_scenes(pipeline, megadepth, tmp_path):
    for name, scene in (("train", "0001"), ("valid", "0002")):
        (tmp_path / f"{name}.txt").write_text(f"{scene}\n")
    lists = {f"{k}_scenes": str(tmp_path / f"{k}.txt") for k in ("train", "valid")}
    conf = write_config(
        tmp_path / "c.yaml", source="megadepth", held_back_pairs_per_scene=1, **lists
    )
    output = tmp_path / "out"
    assert run(pipeline, "--config", conf, "--dataset", megadepth, "--output", output) == 0
    record = json.loads((output / "run.json").read_text())
    assert record["counts"] == {"pairs": 2, "held_back": 1}
    assert record["scores"]["before"]["accuracy"] > 0.9  # the same pixels


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "there is no data set; name the folder of photographs by --dataset"),
        ({"dataset": "nowhere"}, "nowhere: there is no such folder of images"),
        ({"dataset": ".", "source": "megadepth"}, "scene_info: holds no scene; it should hold"),
        ({"training": {"weights": "lost.pth"}}, "lost.pth: there is no such file"),
        ({"training": {"epochs": 0}}, "epochs must be from 1 to 1000000000, not 0"),
        ({"training": {"device": "tpu"}}, "device: 'tpu' is not one of"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_what_is_wrong_is_one_sentence(pipeline, photos, tmp_path, capsys, values, text):
    conf = write_config(tmp_path / "c.yaml", **values)
    given = ["--dataset", photos] if "weights" in str(values) else []
    assert run(pipeline, "--config", conf, *given, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err.strip()
    assert text in error
    assert error.startswith("train: ")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()  # the mended command may use it


@pytest.mark.parametrize("name", ["train_photos", "train_megadepth", "train_place"])
def test_the_configurations_that_are_shipped_are_valid(pipeline, name):
    conf = config.load(pipeline.Train, ROOT / "configs" / f"{name}.yaml")
    assert conf.training.trained_from == "conv4_3"
    assert conf.training.learning_rate == 1e-3
