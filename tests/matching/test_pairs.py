"""Pair lists from files, descriptors and models."""

import tracemalloc

import numpy as np
import pytest

from d2_hloc.files.colmap import pycolmap
from d2_hloc.matching import pairs, similar_images
from d2_hloc.sfm.pose_errors import model_poses


def test_a_list_comes_back_as_it_was(tmp_path):
    listed = [("db/1.jpg", "db/2.jpg"), ("query/a.jpg", "db/1.jpg")]
    path = pairs.write_pairs(tmp_path / "pairs.txt", listed)
    assert path.read_text() == "db/1.jpg db/2.jpg\nquery/a.jpg db/1.jpg\n"
    assert pairs.read_pairs(path) == listed


def test_names_with_spaces_and_signs_come_back(tmp_path):
    listed = [
        ("a b.jpg", "c.jpg"),
        ("c.jpg", "ä\u3000日/d e.jpg"),
        ("#1.jpg", "#2.jpg"),
        ("x", "y"),
    ]
    path = pairs.write_pairs(tmp_path / "pairs.txt", listed)
    assert path.read_text().splitlines()[::2] == ["a b.jpg\tc.jpg", "./#1.jpg #2.jpg"]
    assert pairs.read_pairs(path) == listed


@pytest.mark.parametrize("text", ["", "\n\n  \n"])
def test_an_empty_list_is_named(tmp_path, text):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=r"pairs\.txt: names no pair of images"):
        pairs.read_pairs(tmp_path / "pairs.txt")


def test_blank_lines_tabs_and_other_line_ends_do_not_matter(tmp_path):
    (tmp_path / "pairs.txt").write_bytes(b"a b\r\n\r\n  c\td  \r\n")
    assert pairs.read_pairs(tmp_path / "pairs.txt") == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize("line", ["alone", "a b c", "my photo.jpg other.jpg"])
def test_a_line_without_two_names_is_quoted_with_its_number(tmp_path, line):
    (tmp_path / "pairs.txt").write_text(f"a b\n\n{line}\n")
    with pytest.raises(ValueError, match=r"pairs\.txt, line 3: expected two names") as error:
        pairs.read_pairs(tmp_path / "pairs.txt")
    assert repr(line) in str(error.value)


def test_a_byte_order_mark_costs_no_line(tmp_path):
    (tmp_path / "pairs.txt").write_bytes(b"\xef\xbb\xbfa.jpg b.jpg\r\n# no pair\r\n")
    assert pairs.read_pairs(tmp_path / "pairs.txt") == [("a.jpg", "b.jpg")]


def test_a_list_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt: cannot be read \(No such file"):
        pairs.read_pairs(tmp_path / "none.txt")
    (tmp_path / "image.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match=r"image\.txt: is not text in UTF-8 \(byte 0"):
        pairs.read_pairs(tmp_path / "image.txt")


def test_unique_leaves_out_repetitions_in_either_order_and_images_with_themselves():
    listed = [("b", "a"), ("a", "c"), ("a", "b"), ("c", "c"), ("b", "a"), ("c", "a")]
    assert pairs.unique(listed) == [("b", "a"), ("a", "c")]


def test_exhaustive_has_every_pair_once():
    assert pairs.exhaustive(["a", "b", "c"]) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs.exhaustive(["a"]) == pairs.exhaustive([]) == []


def test_between_has_every_query_with_every_image():
    expected = [("q", "a"), ("q", "b"), ("r", "a"), ("r", "b")]
    assert pairs.between(["q", "r"], ["a", "b"]) == expected
    assert pairs.between([], ["a"]) == pairs.between(["q"], []) == []


def on_a_circle(degrees, offset=0.0):
    """Global descriptors in the plane, around something that all of them share."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles), np.full(len(angles), offset)], axis=1)


NAMES = ["a", "b", "c", "d"]


def test_retrieval_takes_the_nearest_first_and_never_the_image_itself():
    descriptors = on_a_circle([0, 200, 20, 180])
    found = pairs.from_retrieval(NAMES, descriptors, 1)
    assert found[:4] == [("a", "c"), ("b", "d"), ("c", "a"), ("d", "b")]
    assert pairs.from_retrieval(NAMES, descriptors, 2)[:2] == [("a", "c"), ("a", "b")]


def test_groups_that_only_know_their_own_are_joined_by_their_nearest():
    names = [*"abcdefg"]
    descriptors = on_a_circle([0, 10, 90, 101, 180, 195, 187])
    found = pairs.from_retrieval(names, descriptors, 1)
    bridges = found[len(names) :]
    assert bridges == [("b", "c"), ("e", "d")]  # smallest group first
    assert pairs.bridges(names, np.zeros((7, 2)), pairs.exhaustive(names)) == []
    assert pairs.bridges([], np.zeros((0, 2)), []) == []


def test_retrieval_does_not_mind_what_all_images_share():
    own = np.array([[1, 0], [4.9, 0.9], [0, 1], [-5.9, -1.9]])  # a and b point the same way
    shared = np.full((4, 1), 10.0)  # and this would make a most similar to c
    found = pairs.from_retrieval(NAMES, np.hstack([own, shared]), 1)
    assert found[0] == ("a", "b")


def test_more_images_than_there_are_cannot_be_retrieved():
    descriptors = on_a_circle([0, 90, 180, 270])
    assert len(pairs.from_retrieval(NAMES, descriptors, 100)) == 4 * 3
    found = pairs.from_retrieval(NAMES, descriptors, 100, ["q"], on_a_circle([10]))
    assert sorted(found) == [("q", name) for name in NAMES]


def test_queries_get_the_nearest_images_of_the_database():
    database, queries = on_a_circle([0, 90, 180, 270], 5), on_a_circle([80, 185], 5)
    found = pairs.from_retrieval(NAMES, database, 2, ["q", "r"], queries)
    assert found == [("q", "b"), ("q", "a"), ("r", "c"), ("r", "d")]


def test_a_single_image_is_retrieved_by_every_query_and_not_by_itself():
    one = on_a_circle([30])
    assert pairs.from_retrieval(["a"], one, 5) == []
    found = pairs.from_retrieval(["a"], one, 5, ["q", "r"], on_a_circle([10, 200]))
    assert found == [("q", "a"), ("r", "a")]


@pytest.fixture(scope="module")
def model():
    """Six cameras around 60 points, of which each sees another number."""
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=1, num_cameras_per_rig=1, num_frames_per_rig=6, num_points3D=60
    )
    model = pycolmap.synthesize_dataset(options)
    for k, image_id in enumerate(sorted(model.reg_image_ids())):
        seen = [
            (p.point3D_id, index)
            for index, p in enumerate(model.images[image_id].points2D)
            if p.has_point3D()
        ]
        for _, index in sorted(seen)[k::6][: 2 * k]:
            model.delete_observation(image_id, index)
    return model


def points_of(model):
    """The points that each image sees."""
    found = {model.images[i].name: set() for i in model.reg_image_ids()}
    for point_id, point in model.points3D.items():
        for element in point.track.elements:
            found[model.images[element.image_id].name].add(point_id)
    return found


def test_covisible_images_share_most_points(model):
    points = points_of(model)
    shared = {len(points[a] & points[b]) for a in points for b in points if a != b}
    assert len(shared) > 5  # or any order would do
    listed = pairs.from_covisibility(model, 3)
    for name in points:
        found = [b for a, b in listed if a == name]
        others = sorted(n for n in points if n != name)
        assert found == sorted(others, key=lambda n: -len(points[name] & points[n]))[:3]


def test_images_that_share_no_point_are_no_covisible_pair(model):
    empty = pycolmap.Reconstruction(model)
    for point_id in sorted(empty.points3D):
        empty.delete_point3D(point_id)
    assert pairs.from_covisibility(empty, 3) == []


def turned(axis, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array(
        {"y": [[c, 0, s], [0, 1, 0], [-s, 0, c]], "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}[axis]
    )


def looking(*poses, roll=0.0):
    """A model of cameras on the x-axis: (x, degrees that the view is turned to the side).

    The k-th is rolled around its view by k times `roll` degrees.
    """
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_PINHOLE", 500, 640, 480)
    model.add_camera_with_trivial_rig(camera)
    for k, (x, degrees) in enumerate(poses, 1):
        rotation = turned("z", k * roll) @ turned("y", degrees)
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ [x, 0, 0])
        image = pycolmap.Image(name=NAMES[k - 1], camera_id=1, image_id=k)
        model.add_image_with_trivial_frame(image, pose)
    return model


@pytest.mark.parametrize("roll", [0.0, 75.0])
def test_near_cameras_are_paired_nearest_first(roll):
    poses = model_poses(looking((60, 20), (100, 20), (101, -20), (110, 0), roll=roll))
    assert pairs.from_poses(poses, 1) == [
        ("a", "b"),
        ("b", "c"),
        ("c", "b"),
        ("d", "c"),
    ]
    assert [b for a, b in pairs.from_poses(poses, 3) if a == "a"] == ["b", "c", "d"]


@pytest.mark.parametrize(("max_angle", "expected"), [(45.0, ["c"]), (60.0, ["b", "c"])])
def test_cameras_that_look_elsewhere_are_not_paired(max_angle, expected):
    model = looking((0, 0), (1, 50), (2, -40), (3, 180))
    found = pairs.from_poses(model_poses(model), 3, max_angle)
    assert [b for a, b in found if a == "a"] == expected
    assert "d" not in {name for pair in found for name in pair}


@pytest.mark.parametrize("block", [1, 3, 100])
def test_another_order_loses_and_repeats_no_pair(block):
    listed = pairs.exhaustive([str(k) for k in range(11)])
    found = pairs.order_for_reuse(listed, block)
    assert sorted(found) == sorted(listed)
    assert pairs.order_for_reuse([], block) == []


def test_the_order_keeps_a_small_cache_useful():
    listed = pairs.exhaustive([str(k) for k in range(32)])

    def loads(ordered, capacity):
        held, count = [], 0
        for name in (name for pair in ordered for name in pair):
            count += name not in held
            held = [*(n for n in held if n != name), name][-capacity:]
        return count

    plain, reordered = loads(listed, 8), loads(pairs.order_for_reuse(listed, 4), 8)
    assert reordered < plain / 2


def test_retrieval_by_blocks_finds_the_same_with_equals_among_them(monkeypatch):
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(60, 4)).round(1)
    descriptors[30:40] = descriptors[20:30]  # equals
    names = [f"{k:02}" for k in range(60)]
    whole = pairs.from_retrieval(names, descriptors, 2)
    queries = names[:7], rng.normal(size=(7, 4))
    of_queries = pairs.from_retrieval(names, descriptors, 5, *queries)
    assert len(whole) > 120  # with bridges
    monkeypatch.setattr(similar_images, "BLOCK_BYTES", 3 * 60 * 8)  # three rows
    assert pairs.from_retrieval(names, descriptors, 2) == whole
    assert pairs.from_retrieval(names, descriptors, 5, *queries) == of_queries


@pytest.mark.parametrize("search", ["exact", "approximate"])
def test_faiss_finds_the_images_that_blocks_find(search, monkeypatch):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    places = 3 * rng.normal(size=(50, 12))
    database = (places[np.arange(3000) % 50] + rng.normal(size=(3000, 12))).astype(np.float32)
    names = [str(k) for k in range(3000)]
    queries = ["a", "b"], database[[7, 2900]] + 0.01
    expected = pairs.from_retrieval(names, database, 5)
    of_queries = pairs.from_retrieval(names, database, 5, *queries)
    monkeypatch.setattr(similar_images, "FEW", 100)
    found = similar_images.most_similar(database, database, 5, True, search)
    assert all(k not in row and len(row) == 5 for k, row in enumerate(found))
    again = pairs.from_retrieval(names, database, 5, search=search)
    least = 0.999 if search == "exact" else 0.9
    assert len(set(again) & set(expected)) >= least * len(set(expected))
    assert pairs.from_retrieval(names, database, 5, *queries, search=search) == of_queries


def test_an_approximate_search_without_faiss_is_one_sentence(monkeypatch):
    monkeypatch.setattr(similar_images.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs FAISS: pip install 'd2_hloc\[faiss\]'"):
        pairs.from_retrieval(NAMES, np.eye(len(NAMES)), 1, search="approximate")


@pytest.mark.parametrize("is_there", [True, False], ids=["faiss", "blocks"])
def test_retrieval_among_200000_images_needs_no_matrix_of_all(is_there, monkeypatch):
    """Their similarities would take 160 GB; planted images are found."""
    if is_there:
        pytest.importorskip("faiss")
    else:
        monkeypatch.setattr(similar_images.importlib.util, "find_spec", lambda name: None)
    count, places = 200_000, [17, 123_456, 199_999]
    database = np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)
    names = [str(k) for k in range(count)]
    tracemalloc.start()
    found = pairs.from_retrieval(names, database, 2, ["a", "b", "c"], database[places] + 0.01)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [image for _, image in found[::2]] == [str(k) for k in places]
    assert peak < 5 * database.nbytes
    blocks = [rows for rows, _ in similar_images.similarities(database[:400], database)]
    assert max(b.stop - b.start for b in blocks) * count * 4 <= similar_images.BLOCK_BYTES
    assert sum(b.stop - b.start for b in blocks) == 400
