"""The main jobs on real photographs with ground truth, from the command line."""

import json
import shutil

import pytest

from d2_hloc.app import cli

pytestmark = pytest.mark.slow
HELD_OUT = ("0002.jpg", "0005.jpg", "0008.jpg")


def scores(output):
    return json.loads((output / "run.json").read_text())["scores"]


@pytest.fixture(scope="module")
def fountain(shared, tmp_path_factory):
    """The model of all eleven images."""
    scene = shared / "data" / "lfe-mini" / "Fountain"
    output, truth = tmp_path_factory.mktemp("fountain"), str(scene / "ground_truth.txt")
    options = ["--resize-max", "640", "--intrinsics", truth, "--ground-truth", truth]
    assert cli.main(["reconstruct", str(scene / "images"), str(output), *options]) == 0
    return output


@pytest.mark.ci
def test_fountain_is_reconstructed_within_15_mm(fountain):
    found = scores(fountain)
    assert found["registered_images"] == 11
    assert found["ground_truth"]["mean_position_error_m"] <= 0.015


def test_sacre_coeur_is_registered_whole(shared, tmp_path):
    images = shared / "data" / "lfe-mini" / "SacreCoeur" / "images"
    assert cli.main(["reconstruct", str(images), str(tmp_path)]) == 0
    assert scores(tmp_path)["registered_images"] == 10


@pytest.mark.ci
def test_held_out_fountain_images_are_placed(shared, fountain, tmp_path):
    scene = shared / "data" / "lfe-mini" / "Fountain"
    for folder in ("images", "queries"):
        (tmp_path / folder).mkdir()
    for image in (scene / "images").iterdir():
        folder = "queries" if image.name in HELD_OUT else "images"
        (tmp_path / folder / image.name).symlink_to(image)
    model, output = tmp_path / "model", tmp_path / "poses"
    model.mkdir()
    shutil.copy(fountain / "features.h5", model)  # those of the held-out images leave it
    options = ["--intrinsics", str(scene / "ground_truth.txt")]
    size = ["--resize-max", "640"]
    images, queries = str(tmp_path / "images"), str(tmp_path / "queries")
    assert cli.main(["reconstruct", images, str(model), *size, *options]) == 0
    options += ["--ground-truth", str(scene / "ground_truth.txt")]
    assert cli.main(["localize", str(model), queries, str(output), *options]) == 0
    lines = (output / "poses.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == list(HELD_OUT)
    errors = scores(output)["query_errors"]
    assert max(metres for metres, _ in errors.values()) <= 0.03
    assert max(degrees for _, degrees in errors.values()) <= 0.5
