"""A dashboard in every photograph: it outvotes the scene, unless masks hide it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from skimage import data
from small_run import SmallRun

from d2_hloc.app import cli
from d2_hloc.core.photographs.masks import save_mask
from d2_hloc.files.colmap import read_model

SHOWN = 120  # rows of 240: the scene above, the dashboard below


@pytest.fixture
def drive(small_run: SmallRun, tmp_path) -> SmallRun:
    """The small scene behind one and the same picture, and masks of it in FOLDER/masks."""
    run = SmallRun(tmp_path)
    shutil.copytree(small_run.images, run.images)
    shutil.copy(small_run.folder / "intrinsics.txt", tmp_path)
    for path in run.images.iterdir():
        image = Image.open(path).convert("RGB")
        size = image.width, image.height - SHOWN
        image.paste(Image.fromarray(data.astronaut()).resize(size), (0, SHOWN))
        image.save(path, quality=95)
        visible = np.arange(image.height)[:, None].repeat(image.width, axis=1) < SHOWN
        save_mask(run.folder / "masks" / f"{path.name}.png", visible)
    return run


def test_masks_give_a_model_where_the_dashboard_allows_none(drive, small_run, capfd):
    assert cli.main([*drive.arguments(drive.output), "--quiet"]) == 1
    shown = capfd.readouterr().err
    assert "which --masks hides" in shown
    assert "Failed to create any sparse model" not in shown  # COLMAP's words for an attempt
    given = "--masks", str(drive.folder / "masks"), "--refinement", "on", *small_run.truth
    masked = drive.folder / "masked"
    assert cli.main([*drive.arguments(masked), *given]) == 0
    model = read_model(masked / "sparse")
    assert model.num_reg_images() == 4
    rows = [p.xy[1] for i in model.images.values() for p in i.points2D]
    assert len(rows) > 100
    assert max(rows) <= SHOWN
    errors = json.loads((masked / "run.json").read_text())["scores"]["ground_truth"]
    assert errors["mean_position_error_m"] < 0.1  # of a square that is 10 m wide
