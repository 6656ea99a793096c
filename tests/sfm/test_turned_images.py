"""Photographs that are stored turned, with EXIF to say so, lead to the same model and poses."""

import json
import shutil

import pytest
from PIL import Image
from small_run import SIZE, SmallRun

from d2_hloc.app import cli
from d2_hloc.files.colmap import read_model

ORIENTATION = 0x0112
STORED = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}


def turn(path, orientation):
    """Store an image turned, with the orientation in EXIF by which it is upright."""
    image, exif = Image.open(path).convert("RGB"), Image.Exif()
    exif[ORIENTATION] = orientation
    image.transpose(STORED[orientation]).save(path, quality=95, subsampling=0, exif=exif)


@pytest.fixture
def turned(small_run, tmp_path):
    """The small run's photographs, every second one and the query turned; and their cameras."""
    run = SmallRun(tmp_path)
    shutil.copytree(small_run.images, run.images)
    shutil.copytree(small_run.queries, run.queries)
    shutil.copy(small_run.folder / "ground_truth.txt", tmp_path)
    names = sorted(path.name for path in run.images.iterdir())
    sideways = [names[1], *(path.name for path in run.queries.iterdir())]
    turn(run.images / names[3], 3)
    for folder in (run.images, run.queries):
        for name in sideways:
            if (folder / name).exists():
                turn(folder / name, 6)
    lines = []
    for line in (small_run.folder / "intrinsics.txt").read_text().splitlines():
        name, model, width, height, fx, fy, cx, cy = line.split()
        if name in sideways:  # a quarter turn about the middle
            width, height, fx, fy, cx, cy = height, width, fy, fx, cy, cx
        lines.append(" ".join((name, model, width, height, fx, fy, cx, cy)))
    (tmp_path / "intrinsics.txt").write_text("\n".join(lines))
    return run


def position_errors(folder):
    """Position errors against the truth, in metres: of a model on average, of queries by name."""
    scores = json.loads((folder / "run.json").read_text())["scores"]
    return scores["ground_truth"]["mean_position_error_m"], scores.get("query_errors", {})


def test_turned_photographs_and_queries_are_placed_as_upright_ones(turned):
    """Refined, so that shallow maps are turned too. Poses are those of the stored images."""
    refined = [a for a in turned.arguments(turned.output) if a not in ("--refinement", "off")]
    assert cli.main([*refined, *turned.truth]) == 0
    model = read_model(turned.output / "sparse")
    assert model.num_reg_images() == 4
    assert sorted((c.width, c.height) for c in model.cameras.values()) == [(240, 320)] + 3 * [SIZE]
    assert position_errors(turned.output)[0] < 0.02
    poses = turned.folder / "poses"
    localize = ["localize", str(turned.output), str(turned.queries), str(poses)]
    assert cli.main([*localize, *turned.intrinsics, *turned.truth]) == 0
    assert [metres < 0.03 for metres, _ in position_errors(poses)[1].values()] == [True]
