"""Queries that have the name of another image."""

import shutil

import numpy as np

from d2_hloc.app import cli
from d2_hloc.files.colmap import read_model
from d2_hloc.sfm.pose_errors import model_poses
from d2_hloc.sfm.poses_file import read_poses


def test_queries_named_as_images_of_the_model_are_drawn_by_their_own_pairs(small_run, tmp_path):
    names = sorted(p.name for p in small_run.images.iterdir())
    queries = tmp_path / "queries"
    queries.mkdir()
    shutil.copyfile(small_run.images / names[1], queries / names[0])
    shutil.copyfile(small_run.images / names[0], queries / names[1])
    listed = tmp_path / "pairs.txt"
    listed.write_text(f"{names[0]} {names[1]}\n{names[0]} {names[2]}\n{names[1]} {names[2]}\n")
    arguments = ["localize", small_run.output, queries, tmp_path / "out", "--pairs", listed]
    arguments += ["--refinement", "off", *small_run.intrinsics]
    assert cli.main(list(map(str, arguments))) == 0
    assert len((tmp_path / "out" / "poses.txt").read_text().splitlines()) == 2
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_replaced_query_leaves_nothing_of_the_old_one(small_run, tmp_path):
    """Its features were deleted, as the refusal of the replaced photograph may lead one to do."""
    queries, output = tmp_path / "queries", tmp_path / "out"
    shutil.copytree(small_run.queries, queries)
    query = next(queries.iterdir())
    arguments = ["localize", small_run.output, queries, output, "--refinement", "off"]
    arguments = [*map(str, arguments), *small_run.intrinsics]
    assert cli.main(arguments) == 0
    other = small_run.images / "view_05.jpg"
    shutil.copyfile(other, query)
    assert cli.main(arguments) == 1
    (output / "features.h5").unlink()
    assert cli.main(arguments) == 0
    found = read_poses(output / "poses.txt")[query.name]
    expected = model_poses(read_model(small_run.output / "sparse"))[other.name]
    assert np.allclose(found.translation, expected.translation, atol=0.05)


def test_a_model_that_cannot_be_aligned_is_written_and_reported_all_the_same(
    small_run, tmp_path, caplog
):
    lines = (small_run.folder / "ground_truth.txt").read_text().splitlines()[:3]
    poses = ["1 0 0 0 0 0 0", "1 0 0 0 1 0 0", "1 0 0 0 2 0 0"]
    names = [line.split()[0] for line in lines]
    text = "".join(f"{name} {pose}\n" for name, pose in zip(names, poses, strict=True))
    truth = tmp_path / "truth.txt"
    truth.write_text(text + "other.jpg 1 0 0 0 0 5 0\n")
    output = tmp_path / "out"
    shutil.copytree(small_run.output, output)
    (output / "report.html").unlink()
    arguments = [*small_run.arguments(output), "--ground-truth", str(truth)]
    assert cli.main(arguments) == 0
    assert "the model cannot be aligned to the ground truth; no errors." in caplog.text
    assert (output / "report.html").is_file()


def test_ground_truth_that_gives_no_frame_is_told_before_the_run(small_run, tmp_path, capsys):
    truth = tmp_path / "truth.txt"
    truth.write_text("".join(f"{k}.jpg 1 0 0 0 {k} 0 0\n" for k in range(4)))
    for arguments in (
        small_run.arguments(tmp_path / "out"),
        ["localize", str(small_run.output), str(small_run.queries), str(tmp_path / "out")],
    ):
        assert cli.main([*arguments, "--ground-truth", str(truth)]) == 1
        assert f"{truth}: all its cameras are at one place" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
