"""Images that are stored turned, and say nothing of it: which way is up, others tell."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2_hloc.core.orientation import UPRIGHT
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.matching.quarter_turns import absolute_turns, find_turns, turns_of_new

A, B, C, D, E = (Path(name) for name in "abcde")


def test_turns_go_along_the_surest_pairs():
    pairs = [(50, A, B, 1), (40, B, C, 3), (90, C, D, 0), (20, A, D, 2)]  # the last one is wrong
    assert absolute_turns(pairs) == {A: 0, B: 1, C: 0, D: 0}


def test_most_images_of_a_group_are_upright():
    pairs = [(50, A, B, 3), (50, A, C, 3), (50, D, E, 0)]
    assert absolute_turns(pairs) == {A: 1, B: 0, C: 0, D: 0, E: 0}


def test_images_that_are_known_decide():
    assert absolute_turns([(50, A, B, 3), (50, A, C, 3)], [A]) == {A: 0, B: 3, C: 3}
    turned = absolute_turns([(50, C, D, 0), (50, D, E, 0), (30, A, C, 2)], [A, B])
    assert turned == {A: 0, B: 0, C: 2, D: 2, E: 2}


@pytest.fixture(scope="module")
def images(photo, tmp_path_factory):
    """Crops of a photograph; one is stored as a camera would that was held the other way."""
    folder = tmp_path_factory.mktemp("images")
    whole = Image.fromarray((photo.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    for k, left in enumerate((0, 20, 40)):
        whole.crop((left, 0, left + 260, 235)).save(folder / f"{k}.png")
    turned = whole.crop((10, 0, 270, 235)).transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "turned.png")
    Image.new("RGB", (200, 150), (90, 90, 90)).save(folder / "flat.png")
    return folder


def test_an_image_is_turned_as_those_that_show_the_same(images):
    names = sorted(path.name for path in images.iterdir())
    options = ExtractionOptions(rotations="auto")
    none = images / "features.h5"
    assert turns_of_new(options, images, names, none) == {"turned.png": 6}
    assert turns_of_new(ExtractionOptions(), images, names, none) == {}


def test_a_query_is_turned_as_the_model_is(images):
    views, known = {images / "turned.png": UPRIGHT}, {images / "0.png": UPRIGHT}
    assert find_turns(ExtractionOptions(), views, known) == {images / "turned.png": 6}
