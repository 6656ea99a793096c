"""Pictures and figures: what was planted is where it should be, and nothing else is."""

from itertools import pairwise

import numpy as np
import pytest
from figures import model
from PIL import Image

from d2_hloc.core.pixels import rescale
from d2_hloc.reports.charts import (
    BLUE,
    MAX_BARS,
    bar_figure,
    curves_figure,
    duration,
    model_figure,
    timings_figure,
)
from d2_hloc.reports.drawing import GAP, WIDEST, draw_keypoints, draw_matches, draw_scores, spread

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


def test_a_dot_is_centred_on_its_keypoint():
    picture = draw_keypoints(grey(313, 471), [[100, 300]], height=942)
    y, x = np.nonzero(colourfulness(picture) > 30)
    assert (x.mean(), y.mean()) == pytest.approx((200.5, 600.5), abs=0.3)
    assert colourfulness(draw_keypoints(grey(33, 17), NONE)).max() == 0


def test_circles_grow_with_the_scale():
    xy, scales = np.array([[50, 50], [150, 50]]), np.array([1, 4])
    drawn = colourfulness(draw_keypoints(grey(200, 100), xy, scales, height=200)) > 30
    small, large = np.ptp(np.nonzero(drawn[:, :200])[1]), np.ptp(np.nonzero(drawn[:, 200:])[1])
    assert large / small == pytest.approx(4, rel=0.15)
    with pytest.raises(ValueError, match=r"2 keypoints have scales of shape \(3,\)"):
        draw_keypoints(grey(9, 9), xy, np.ones(3))


def test_draws_on_any_kind_of_image():
    for mode in ("L", "RGBA", "1"):
        assert draw_keypoints(grey(40, 30).convert(mode), [[3, 4]]).mode == "RGB"
    assert draw_keypoints(grey(5000, 10), NONE, height=100).size == (round(100 * WIDEST), 1)


def trace(figure, name: str) -> np.ndarray:
    """Positions (N, 3) of the trace whose legend starts so."""
    found = next(t for t in figure.data if (t.name or "").startswith(name))
    return np.stack([found.x, found.y, found.z], axis=1)


def rotation() -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def test_the_model_stands_upright_however_its_world_is_turned():
    plain, turn = model(), rotation()
    turned = plain | {
        "xyz": plain["xyz"] @ turn.T,
        "centres": plain["centres"] @ turn.T,
        "rotations": plain["rotations"] @ turn.T,
    }
    figures = [model_figure(**plain), model_figure(**turned)]
    upright = plain["xyz"][:, [0, 2, 1]] * (1, 1, -1)  # right, away, up
    for figure in figures:
        np.testing.assert_allclose(trace(figure, "points"), upright, atol=1e-5)
    camera = figures[1].layout.scene.camera
    assert camera.eye.y < camera.center.y  # the scene is ahead
    assert camera.eye.z > camera.center.z


def test_cameras_look_at_what_they_see():
    figure = model_figure(**model(num_cameras=1))
    outline = next(t for t in figure.data if t.mode == "lines")
    assert np.nanmax(outline.y) > 0  # ahead of the centre
    assert np.nanmin(outline.y) == 0
    assert np.nanmax(outline.z) > -np.nanmin(outline.z)  # the roof is above


def test_some_cameras_stand_out():
    figure = model_figure(**model(), highlight={"1.jpg", "3.jpg", "not here.jpg"})
    assert [t.name for t in figure.data if t.name] == ["points (200)", "cameras (3)", "queries (2)"]
    np.testing.assert_allclose(trace(figure, "queries")[:, 0], [-0.5, 0.5])
    colours = {t.name: t.marker.color for t in figure.data[1:] if t.name}
    assert colours["cameras (3)"] == BLUE != colours["queries (2)"]
    only = model_figure(**model(), highlight={f"{i}.jpg" for i in range(5)}, highlight_label="a<b")
    assert [t.name for t in only.data if t.name] == ["points (200)", "a&lt;b (5)"]


def test_far_points_do_not_make_the_scene_a_speck():
    scene = model()
    scene["xyz"][7], scene["xyz"][9, 0] = (1e4, 0, 0), np.nan
    figure = model_figure(**scene)
    assert len(trace(figure, "points (198 of 200)")) == 198
    assert max(np.ptp(axis.range) for axis in scene_axes(figure)) < 10


def scene_axes(figure) -> list:
    return [figure.layout.scene[f"{axis}axis"] for axis in "xyz"]


def test_thins_many_points_the_same_way_every_time():
    figures = [model_figure(**model(), max_points=50) for _ in range(2)]
    assert len(trace(figures[0], "points (50 of 200)")) == 50
    assert figures[0].to_json() == figures[1].to_json()


@pytest.mark.parametrize(("points", "cameras"), [(0, 5), (200, 0), (1, 1), (0, 1), (1, 0)])
def test_parts_of_a_model_can_be_missing(points, cameras):
    figure = model_figure(**model(points, cameras))
    assert len(figure.data) == (points > 0) + 2 * (cameras > 0)
    for axis in scene_axes(figure):
        assert np.isfinite(axis.range).all()
        assert np.ptp(axis.range) > 0
    assert np.isfinite(list(figure.layout.scene.camera.eye.to_plotly_json().values())).all()


def test_cameras_all_around_and_an_empty_model():
    scene = model(num_cameras=8)
    angles = np.arange(8) * np.pi / 4
    c, s, zero, one = np.cos(angles), np.sin(angles), np.zeros(8), np.ones(8)
    scene["rotations"] = np.stack([c, zero, s, zero, one, zero, -s, zero, c], 1).reshape(8, 3, 3)
    assert np.isfinite(trace(model_figure(**scene), "points")).all()
    assert model_figure(**model(0, 0)).layout.annotations[0].text == "The model is empty."


def test_says_what_does_not_fit_in_a_model():
    with pytest.raises(ValueError, match="200 points and 1 colours"):
        model_figure(**model() | {"rgb": np.zeros((1, 3))})
    with pytest.raises(ValueError, match="5 rotations and 2 names"):
        model_figure(**model() | {"names": ["a", "b"]})
    with pytest.raises(ValueError, match=r"rotations must have the shape \(N, 3, 3\)"):
        model_figure(**model() | {"rotations": np.zeros((5, 3))})


def test_bars_have_names_and_values():
    figure = bar_figure(["a.jpg", "<b>.jpg", "x" * 60], np.array([1234, 0, 2.5]), "features")
    assert list(figure.data[0].text) == ["1,234", "0", "2.5"]
    assert list(figure.layout.yaxis.ticktext)[:2] == ["a.jpg", "&lt;b&gt;.jpg"]
    assert len(figure.layout.yaxis.ticktext[2]) < 40
    assert "x" * 60 in figure.data[0].hovertext[2]
    assert len(bar_figure([], [], "features").data) == 0
    with pytest.raises(ValueError, match="1 names and 2 values"):
        bar_figure(["a"], [1, 2], "features")


def test_many_bars_are_sorted():
    names = [f"{i}.jpg" for i in range(MAX_BARS + 1)]
    figure = bar_figure(names, np.roll(np.arange(MAX_BARS + 1), 5), "features")
    assert (np.diff(figure.data[0].y) <= 0).all()
    assert figure.data[0].hovertext[0] == f"4.jpg: {MAX_BARS}"


def test_timings_read_as_one_says_them():
    figure = timings_figure({"extraction": 83.2, "matching": 0.0})
    assert list(figure.data[0].text) == ["1 min 23 s", "0 ms"]
    assert len(timings_figure({}).data) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0851, "85 ms"),
        (0.9996, "1.0 s"),
        (59.96, "1 min 00 s"),
        (3599.9, "1 h 00 min"),
        (7530, "2 h 05 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_curves_have_gaps_where_there_is_no_number():
    figure = curves_figure({"a<b": ([0, 1, 2], [0.5, float("nan"), 1.0])}, "epoch", "loss")
    assert figure.data[0].name == "a&lt;b"
    assert list(figure.data[0].y) == [0.5, None, 1.0]
    assert len(curves_figure({"a": ([], [])}, "epoch", "loss").data) == 0


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
