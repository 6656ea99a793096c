"""Every cell is searched for where a model says that it is seen: there, once, and through kills."""

from types import SimpleNamespace

import numpy as np
import pytest
from dense_scene import model_of, name_of, write_grids, write_scene
from scipy.spatial import KDTree

from d2_hloc.files import features_h5
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.sfm.searching import covering
from d2_hloc.sfm.searching.covering import cover_model, free_keypoints
from d2_hloc.sfm.searching.views import distances_to_lines, expected, model_views

OPTIONS = RefinementOptions(enabled=True)
SIZE = 211, 160
NAMES = [name_of(k) for k in range(5)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Five views of surfaces that are known, a keypoint every 8 pixels, and an exact model."""
    folder = tmp_path_factory.mktemp("scene")
    rendered = write_scene(folder)
    features = folder / "features.h5"
    write_grids(features, NAMES, SIZE)
    return SimpleNamespace(
        images=folder / "images",
        features=features,
        rendered=dict(zip(NAMES, rendered, strict=True)),
        model=model_of(rendered),
    )


@pytest.fixture(scope="module")
def covered(scene, tmp_path_factory):
    output = tmp_path_factory.mktemp("covered") / "refined-last.h5"
    matches = cover_model(OPTIONS, scene.model, scene.features, scene.images, output)
    return SimpleNamespace(output=output, matches=matches)


def seen_at(scene, name0, name1, xy0):
    """Where the second view shows what the first does at whole pixels `xy0`."""
    views = [scene.rendered[n].view for n in (name0, name1)]
    (K0, pose0), (K1, pose1) = ((v.K.numpy(), v.cam_from_world.numpy()) for v in views)
    x, y = np.rint(xy0).astype(int).T
    rays = np.column_stack([x, y, np.ones_like(x)]) @ np.linalg.inv(K0).T
    local = rays * scene.rendered[name0].depth[y, x][:, None]
    world = (local - pose0[:, 3]) @ pose0[:, :3]
    there = (world @ pose1[:, :3].T + pose1[:, 3]) @ K1.T
    return there[:, :2] / there[:, 2:]


def test_places_are_where_the_surface_is_seen(scene, covered):
    first = features_h5.keypoints_of
    errors, moved = [], set()
    with (
        features_h5.open_h5(covered.output) as file,
        features_h5.open_h5(scene.features) as features,
    ):
        for (name0, name1), found in covered.matches.items():
            pairs = ((name0, name1, found.pairs), (name1, name0, found.pairs[:, ::-1]))
            for reference, other, pair in pairs:
                outcomes = [
                    file[n]["outcomes"][()][i]
                    for n, i in zip((reference, other), pair.T, strict=True)
                ]
                rows = (outcomes[0] == -1) & (outcomes[1] == 0)
                xy0 = first(features, reference)[pair[rows, 0]]
                xy1 = first(file, other)[pair[rows, 1]]
                errors.append(np.linalg.norm(xy1 - seen_at(scene, reference, other, xy0), axis=1))
                moved |= {(other, i) for i in pair[rows, 1].tolist()}
    errors = np.concatenate(errors)
    assert len(errors) > 1000
    assert np.median(errors) < 0.15
    assert (errors < 1).mean() > 0.95
    assert len(moved) == len(errors)  # a keypoint is at one place only


def test_most_tracks_are_long(covered):
    degrees = {}
    for (name0, name1), found in covered.matches.items():
        for pair in found.pairs.tolist():
            for end in zip((name0, name1), pair, strict=True):
                degrees[end] = degrees.get(end, 0) + 1
    lengths = np.array([d + 1 for d in degrees.values() if d > 1])
    assert (lengths >= 4).mean() > 0.5


def test_a_killed_run_goes_on_from_the_images_that_were_done(scene, covered, tmp_path, monkeypatch):
    search_all, searched = covering.search_all, []

    def until_killed(options, views, maps, name, *rest):
        searched.append(name)
        if len(searched) == 3:
            raise KeyboardInterrupt
        return search_all(options, views, maps, name, *rest)

    monkeypatch.setattr(covering, "search_all", until_killed)
    given = OPTIONS, scene.model, scene.features, scene.images, tmp_path / "refined-last.h5"
    with pytest.raises(KeyboardInterrupt):
        cover_model(*given)
    assert not given[-1].exists()
    matches = cover_model(*given)
    assert len(searched) == 6
    assert len(set(searched)) == 5
    assert matches.keys() == covered.matches.keys()
    for pair, found in matches.items():
        assert np.array_equal(found.pairs, covered.matches[pair].pairs)
    assert [p.name for p in tmp_path.iterdir()] == ["refined-last.h5"]
    assert given[-1].read_bytes() == covered.output.read_bytes()


def test_the_model_expects_places_and_knows_their_lines(scene):
    views = model_views(scene.model, scene.features)
    view0, view1 = views[NAMES[0]], views[NAMES[1]]
    where = expected(view0, view1, view0.keypoints)
    truth = seen_at(scene, NAMES[0], NAMES[1], view0.keypoints[where.index])
    errors = np.linalg.norm(where.xy - truth, axis=1)
    assert len(errors) > 200
    assert np.median(errors) < 1
    given = view0.keypoints[where.index]
    assert distances_to_lines(view0, view1, given, truth).max() < 1e-2
    off = truth + np.array([0, 5.0])  # the cameras stand side by side
    assert np.median(distances_to_lines(view0, view1, given, off)) > 2
    assert expected(view0, view1, np.empty((0, 2))) is None


def test_images_without_common_points_expect_nothing(scene):
    views = model_views(scene.model, scene.features)
    view0, view1 = views[NAMES[0]], views[NAMES[1]]

    apart = type(view1)(**(vars(view1) | {"point_ids": view1.point_ids + 10_000}))
    assert expected(view0, apart, view0.keypoints) is None


def test_each_place_takes_the_nearest_free_keypoint():
    xy = np.array([[0.0, 0.0], [8.0, 0.0], [16.0, 0.0], [100.0, 0.0]])
    taken = np.array([False, True, False, False])
    places = np.array([[1.0, 0.0], [2.0, 0.0], [9.0, 0.0], [60.0, 0.0]])
    found = free_keypoints(KDTree(xy), taken, places, 12.0)
    assert found.tolist() == [0, -1, 2, -1]
    assert free_keypoints(KDTree(xy), taken, np.empty((0, 2)), 12.0).tolist() == []
    assert taken.tolist() == [False, True, False, False]
