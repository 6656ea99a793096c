"""Pictures: what was planted is where it should be, and nothing else is."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from d2_hloc.core.pixels import rescale
from d2_hloc.reports.drawing import (
    GAP,
    WIDEST,
    beside,
    draw_keypoints,
    draw_matches,
    draw_scores,
    draw_seen_points,
    spread,
)

NONE = np.empty((0, 2))


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (120, 120, 120))


def colourfulness(picture: Image.Image) -> np.ndarray:
    """(H, W): how far each pixel is from grey."""
    values = np.asarray(picture).astype(int)
    return values.max(axis=2) - values.min(axis=2)


def pixel(picture: Image.Image, xy: np.ndarray) -> np.ndarray:
    x, y = np.rint(xy).astype(int)
    return np.asarray(picture)[y, x].astype(int)


def test_a_match_joins_the_two_points():
    picture = draw_matches(grey(100, 80), grey(64, 40), [[10, 20]], [[50, 30]], height=160)
    assert picture.size == (200 + GAP + 256, 160)
    start = rescale(np.array([10, 20]), 2)
    end = rescale(np.array([50, 30]), 4) + np.array([200 + GAP, 0])
    np.testing.assert_array_equal(pixel(picture, start), pixel(picture, end))
    coloured = colourfulness(picture) > 30
    y, x = np.nonzero(coloured)
    assert (x.min(), x.max()) == pytest.approx((start[0] - 2, end[0] + 2), abs=1)
    expected = start[1] + (x - start[0]) * (end[1] - start[1]) / (end[0] - start[0])
    assert np.abs(y - expected).max() <= 4
    assert np.unique(x).size == x.max() - x.min() + 1


def test_outliers_are_red_and_lie_below_inliers():
    xy = np.array([[40, 40], [40, 40]])
    images = grey(80, 80), grey(80, 80)
    red, green, _ = pixel(draw_matches(*images, xy, xy, np.array([False, False]), height=80), xy[0])
    assert red > green + 60
    for mask in ([True, False], [False, True]):
        red, green, _ = pixel(draw_matches(*images, xy, xy, np.array(mask), height=80), xy[0])
        assert green > red + 60


def test_lines_far_apart_have_different_colours():
    xy = np.array([[5, 40], [120, 40], [235, 40]])
    picture = draw_matches(grey(240, 80), grey(240, 80), xy, xy, height=80)
    colours = [pixel(picture, p) for p in xy]
    assert min(np.abs(a - b).max() for a, b in pairwise(colours)) > 60


def test_without_matches_only_the_images_are_drawn():
    picture = draw_matches(grey(313, 471), grey(101, 33), NONE, NONE, np.empty(0, bool))
    assert colourfulness(picture).max() == 0
    assert picture.height == 480


def test_draws_at_most_max_lines():
    xy = np.stack([np.full(50, 10), np.arange(0, 500, 10)], axis=1)
    picture = draw_matches(grey(60, 500), grey(60, 500), xy, xy, max_lines=5, height=500)
    drawn = colourfulness(picture)[:, 12] > 30
    assert np.count_nonzero(np.diff(drawn.astype(int)) == 1) + drawn[0] == 5


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [(0, 5, []), (3, 10, [0, 1, 2]), (10, 4, [0, 3, 6, 9]), (5, 0, [])],
)
def test_spreads_evenly(count, limit, expected):
    assert spread(count, limit).tolist() == expected


@pytest.mark.parametrize(
    ("xy0", "xy1", "mask", "text"),
    [
        (np.zeros((3, 2)), np.zeros((2, 2)), None, "3 points of image 0, 2 points of image 1"),
        (np.zeros((2, 2)), np.zeros((2, 2)), np.ones(3, bool), r"mask of shape \(3,\)"),
        (np.zeros((2, 3)), np.zeros((2, 2)), None, r"xy0 must have the shape \(K, 2\)"),
        (NONE, np.zeros(2), None, r"xy1 must have .*, not \(2,\)"),
        (np.array([[0, np.nan]]), np.zeros((1, 2)), None, "xy0 holds 1 points not finite"),
    ],
)
def test_says_what_does_not_fit(xy0, xy1, mask, text):
    with pytest.raises(ValueError, match=text):
        draw_matches(grey(8, 8), grey(8, 8), xy0, xy1, mask)


def test_dots_are_centred_on_the_ends_of_a_match():
    picture = draw_matches(grey(313, 471), grey(313, 471), [[100, 300]], [[100, 300]], height=942)
    y, x = np.nonzero(colourfulness(picture) > 30)
    assert y[x < 200].mean() == pytest.approx(600.5, abs=0.3)  # left of the line
    start, end = 200.5, 626 + GAP + 200.5
    assert (x.min() + x.max()) / 2 == pytest.approx((start + end) / 2, abs=0.5)


def test_draws_on_any_kind_of_image():
    for mode in ("L", "RGBA", "1"):
        image = grey(40, 30).convert(mode)
        assert draw_matches(image, image, [[3, 4]], [[3, 4]]).mode == "RGB"
    wide = draw_matches(grey(5000, 10), grey(100, 100), NONE, NONE, height=100)
    assert wide.size == (round(100 * WIDEST) + GAP + 100, 100)


def test_the_highest_score_is_the_brightest_place():
    scores = np.zeros((4, 6))
    scores[1, 5] = 3.0
    drawn = np.asarray(draw_scores(Image.new("RGB", (48, 32), (60, 60, 60)), scores, height=320))
    row, column = np.unravel_index(drawn.sum(axis=2).argmax(), drawn.shape[:2])
    assert (row // 80, column // 80) == (1, 5)
    assert drawn[200, 40].max() < 60
    assert draw_scores(Image.new("RGB", (8, 8)), np.zeros((1, 1))).size == (480, 480)
    with pytest.raises(
        ValueError, match=r"scores must be finite and \(h, w\), not of shape \(2,\)"
    ):
        draw_scores(Image.new("RGB", (8, 8)), np.zeros(2))


def test_a_keypoint_is_a_dot_at_its_place():
    xy = np.array([[10.0, 20], [60, 50]])
    colours = [(255, 0, 0, 255), (0, 0, 255, 255)]
    picture = draw_keypoints(grey(100, 80), xy, colours, height=160)
    places = rescale(xy, 2)
    assert pixel(picture, places[0]).argmax() == 0
    assert pixel(picture, places[1]).argmax() == 2
    assert (colourfulness(picture) > 30).sum() < 100
    with pytest.raises(ValueError, match="2 keypoints and 1 colours"):
        draw_keypoints(grey(100, 80), xy, colours[:1])


def test_a_view_has_the_near_points_above_and_none_from_behind():
    xy = np.array([[20.0, 20], [20, 20], [60, 60], [np.nan, np.inf], [500, 20]])
    rgb = np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0], [9, 9, 9], [0, 255, 0]])
    picture = draw_seen_points((100, 80), xy, rgb, np.array([9.0, 2, -1, 3, 3]), height=80)
    assert picture.size == (100, 80)
    assert pixel(picture, xy[0]).argmax() == 0
    assert (colourfulness(picture) > 30).sum() < 60
    empty = draw_seen_points((100, 80), np.empty((0, 2)), np.empty((0, 3)), np.empty(0), height=80)
    assert colourfulness(empty).max() < 10


def test_two_images_stand_side_by_side_at_one_height():
    assert beside(grey(100, 80), grey(40, 40), height=160).size == (200 + GAP + 160, 160)
