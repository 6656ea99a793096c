"""Squares of photographs to train with: what their files say is what was rendered."""

import numpy as np
import pytest
from PIL import Image

from d2_hloc.app.scene.exhibition import PHOTOGRAPHS, VIEWS, random_views, write_squares
from d2_hloc.training.depth_maps import interpolate, project, read_depth
from d2_hloc.training.scene_info import read_scene


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for k in range(PHOTOGRAPHS):
        tiny = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        tiny.resize((96, 72)).save(folder / f"{k}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def square(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("squares")
    (path,) = write_squares(photographs, 1, folder)
    return folder, read_scene(path, (0.1, 1.0), np.inf)


def test_views_that_overlap_show_the_same_points_by_their_depths(square):
    folder, scene = square
    assert len(scene.views) == VIEWS
    assert len(scene.pairs) > 0
    for i, j in scene.pairs[:4]:
        depths = [read_depth(folder / scene.views[k].depth) for k in (i, j)]
        y, x = (n.ravel() for n in np.mgrid[5 : depths[0].shape[0] : 9, 5 : depths[0].shape[1] : 9])
        xy0 = np.stack([x, y], axis=1).astype(float)
        z0, known = interpolate(depths[0], xy0)
        xy1, z1 = project(scene.views[i], scene.views[j], xy0[known], z0[known])
        there, seen = interpolate(depths[1], np.nan_to_num(xy1, nan=-1))
        error = z1[seen] / there[seen] - 1
        assert (np.abs(error) < 0.01).mean() > 0.1  # the others are hidden
        assert np.quantile(error, 0.02) > -0.05  # nothing is nearer than what is seen


def test_images_are_of_their_depths_sizes_and_show_something(square):
    folder, scene = square
    for view in scene.views.values():
        pixels = np.asarray(Image.open(folder / view.image))
        assert pixels.shape[:2] == read_depth(folder / view.depth).shape
        assert pixels.std() > 10


def test_squares_that_are_there_are_left_alone(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "d2_hloc.app.scene.exhibition.random_views", lambda rng: random_views(rng, 2)
    )
    (first,) = write_squares(photographs, 1, tmp_path)
    first.write_bytes(b"here")
    assert write_squares(photographs, 1, tmp_path) == [first]
    assert first.read_bytes() == b"here"


def test_too_few_photographs_are_one_sentence(photographs, tmp_path):
    with pytest.raises(ValueError, match="takes 12 photographs, and there are 11"):
        write_squares(photographs[1:], 1, tmp_path)
