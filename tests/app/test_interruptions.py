"""Commands are stopped before each of their records is written, and go on to the same results."""

import json
import shutil

import numpy as np
import pytest
from killing import go_on_after_interruptions
from small_run import ARGUMENTS

from d2_hloc.app import cli
from d2_hloc.files.colmap import read_model
from d2_hloc.sfm.pose_errors import model_poses


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def go_on(*arguments):
    return go_on_after_interruptions(lambda: cli.main([str(a) for a in arguments]))


def assert_same_poses(small_run, output):
    found, expected = (model_poses(read_model(o / "sparse")) for o in (output, small_run.output))
    for name, pose in expected.items():
        assert np.allclose(found[name].matrix(), pose.matrix(), atol=1e-6)


def test_reconstruct(small_run, output):
    assert go_on(*small_run.arguments(output)) > 5
    assert_same_poses(small_run, output)


def test_triangulate(small_run, output):
    arguments = "triangulate", small_run.output, small_run.images, output, *ARGUMENTS
    assert go_on(*arguments) > 5
    assert_same_poses(small_run, output)


def test_localize(small_run, output):
    arguments = "localize", small_run.output, small_run.queries, output, "--refinement", "off"
    assert go_on(*arguments, *small_run.intrinsics) > 2
    assert json.loads((output / "run.json").read_text())["counts"]["localized"] == 1


def test_pair(small_run, output):
    first, second = sorted(small_run.images.iterdir())[:2]
    assert go_on("pair", first, second, output, "--feature", "sift") > 1
    assert (output / "matches.csv").is_file()


def test_dense_has_its_own_record_in_a_folder_that_appears_whole(small_run, output, monkeypatch):
    """Nothing is in the folder before dense.json; the report, which is last, may be missing."""
    arguments = ["dense", str(small_run.output), str(output), "--config"]
    conf = output.with_name("small.yaml")
    conf.write_text("{max_image_size: 96, sweep: {hypotheses: 8}}")
    for name in ("check_depth_maps", "fuse", "dense_statistics"):
        with monkeypatch.context() as patched:
            patched.setattr(f"d2_hloc.mvs.reconstruct.{name}", interrupt)
            assert cli.main([*arguments, str(conf)]) == 130
        assert (output / "dense.json").is_file()
    assert cli.main([*arguments, str(conf)]) == 0
    assert (output / "report.html").is_file()
    shutil.rmtree(output)


def interrupt(*_, **__):
    raise KeyboardInterrupt
