"""A reconstruction whose focal lengths are guesses: its model leads to more matches, twice."""

import json
import shutil

import pytest

from d2_hloc.app import cli
from d2_hloc.files.outputs import Outputs


@pytest.fixture(scope="module")
def run(small_run, tmp_path_factory):
    """The small scene with refined keypoints and no intrinsics; its paths and its arguments."""
    outputs = Outputs(tmp_path_factory.mktemp("guessed") / "out")
    outputs.folder.mkdir()
    shutil.copy(small_run.output / "features.h5", outputs.features)
    arguments = ["reconstruct", str(small_run.images), str(outputs.folder), "--resize-max", "240"]
    assert cli.main(arguments) == 0
    return outputs, arguments


def test_a_model_leads_to_the_next(run):
    outputs, _ = run
    record = json.loads(outputs.run_record.read_text())
    stages = ["map", "look again", "readjust", "look last", "readjust again"]
    assert set(stages) <= set(record["done"])
    assert record["scores"]["registered_images"] == 4
    assert record["scores"]["median_reprojection_error"] < 1
    assert record["counts"]["contradicted_pairs"] == []
    assert all(folder.is_dir() for folder in outputs.models)


def test_a_finished_run_makes_nothing_anew_and_a_lost_look_is_made_again(run):
    outputs, arguments = run
    files = outputs.refined_again, outputs.refined_last, outputs.sparse / "points3D.bin"
    before = [file.stat().st_mtime_ns for file in files]
    assert cli.main(arguments) == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    outputs.last_database.unlink()
    assert cli.main(arguments) == 0
    assert outputs.last_database.is_file()
    assert outputs.refined_again.stat().st_mtime_ns == before[0]
    assert outputs.refined_last.stat().st_mtime_ns > before[1]
