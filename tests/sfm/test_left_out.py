"""Images that a run could not use, and photographs that were moved, as a user meets them."""

import json
import shutil

import pytest
from PIL import Image
from small_run import ARGUMENTS

from d2_hloc.app import cli
from d2_hloc.files.colmap import read_model
from d2_hloc.sfm.poses_file import read_poses


def renamed(name):
    """A name with spaces, a number at its end and letters of several scripts."""
    return f"Süd 日本 {name.replace('.jpg', ' 1.jpg')}"


@pytest.fixture
def mixed(small_run, tmp_path):
    """Views of the small scene, a photograph of nothing, and one of something else."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in small_run.images.iterdir():
        shutil.copy(path, folder / renamed(path.name))
    Image.new("RGB", (320, 240), (90, 90, 90)).save(folder / "grey.png")
    Image.effect_noise((320, 240), 90).convert("RGB").save(folder / "noise.png")
    return folder


def test_images_without_a_pose_are_named_with_the_likely_reason(mixed, tmp_path, small_run, capsys):
    lines = (small_run.folder / "intrinsics.txt").read_text().splitlines()
    known = tmp_path / "intrinsics.txt"
    known.write_text("\n".join(renamed(x) for x in lines))
    output = tmp_path / "out"
    arguments = ["reconstruct", str(mixed), str(output), *ARGUMENTS, "--intrinsics", str(known)]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    left_out = json.loads((output / "run.json").read_text())["counts"]["images_left_out"]
    assert left_out["grey.png"] == "it has no keypoints"
    assert left_out["noise.png"].startswith("none of its pairs was verified")
    page = (output / "report.html").read_text()
    for name, reason in left_out.items():
        assert f"{name}   " in said or f"{name}  " in said
        assert reason in said
        assert name in page
        assert reason in page
    placed = {image.name for image in read_model(output / "sparse").images.values()}
    assert placed == {path.name for path in mixed.glob("*.jpg")}
    dense = tmp_path / "dense"
    assert cli.main(["dense", str(output), str(dense), "--max-image-size", "80"]) == 0
    for name in placed:
        assert (dense / "stereo" / "depth_maps" / f"{name}.geometric.bin").is_file()


def test_images_that_have_nothing_in_common_are_no_model(mixed, tmp_path, capsys):
    for path in mixed.glob("*.jpg"):
        path.unlink()
    output = tmp_path / "out"
    assert cli.main(["reconstruct", str(mixed), str(output), *ARGUMENTS]) == 1
    assert "none of its 1 pairs of images has matches that agree" in capsys.readouterr().err
    (mixed / "noise.png").unlink()
    assert cli.main(["reconstruct", str(mixed), str(tmp_path / "one"), *ARGUMENTS]) == 1
    assert "there are no two images to match" in capsys.readouterr().err


def test_photographs_that_were_moved_are_asked_for_before_any_work(small_run, tmp_path, capsys):
    model, moved = tmp_path / "model", tmp_path / "moved"
    shutil.copytree(small_run.output, model)
    shutil.copytree(small_run.images, moved)
    record = json.loads((model / "run.json").read_text())
    record["configuration"]["images"] = str(tmp_path / "gone")
    (model / "run.json").write_text(json.dumps(record))
    output, queries = tmp_path / "poses", tmp_path / "my queries"
    shutil.copytree(small_run.queries, queries)
    for path in queries.iterdir():
        path.rename(queries / renamed(path.name))
    arguments = ["localize", str(model), str(queries), str(output)]
    assert cli.main(arguments) == 1
    assert "gone: the photographs of" in capsys.readouterr().err
    assert cli.main([*arguments, "--images", str(small_run.queries)]) == 1
    assert "lacks 4 of the 4 photographs" in capsys.readouterr().err
    assert not output.exists()
    assert cli.main([*arguments, "--images", str(moved)]) == 0
    assert list(read_poses(output / "poses.txt")) == [path.name for path in queries.iterdir()]
