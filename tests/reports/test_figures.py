"""Plotly figures: what was planted is where it should be, and nothing else is."""

import numpy as np
import pytest
from figures import model

from d2_hloc.reports.charts import (
    MAX_BARS,
    STEPS,
    bar_figure,
    curves_figure,
    duration,
    histogram_figure,
    matrix_figure,
    timings_figure,
)
from d2_hloc.reports.model_figure import model_figure
from d2_hloc.reports.plot_style import BLUE


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
    only = model_figure(**model(), highlight={f"{i}.jpg" for i in range(5)})
    assert [t.name for t in only.data if t.name] == ["points (200)", "queries (5)"]


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


def test_a_histogram_counts_every_value():
    values = np.concatenate([np.full(300, 0.1), np.full(695, 5.99), np.full(5, 1000.0)])
    bars = histogram_figure(values, "pixels").data[0]
    assert sum(bars.y) == len(values)
    assert (bars.y[1], bars.y[STEPS - 1]) == (300, 700)  # steps of 0.0998
    assert bars.hovertext[1] == "0.0998 to 0.2: 300"
    assert bars.hovertext[STEPS - 1].endswith("to more: 700")
    assert sum(histogram_figure(np.zeros(3), "pixels").data[0].y) == 3
    assert len(histogram_figure(np.empty(0), "pixels").data) == 0


def test_a_matrix_leaves_out_pairs_of_nothing():
    figure = matrix_figure(["a", "b"], np.array([[0, 7], [7, 0]]), "matches")
    np.testing.assert_array_equal(figure.data[0].z, [[np.nan, 7], [7, np.nan]])
    assert list(figure.layout.xaxis.ticktext) == ["a", "b"]
    names = [f"{k}.jpg" for k in range(MAX_BARS + 1)]
    many = matrix_figure(names, np.ones((len(names), len(names))), "matches")
    assert many.layout.xaxis.showticklabels is False
    assert len(matrix_figure(["a"], np.zeros((1, 1)), "matches").data) == 0
