"""The contents of InLoc's files: points by pixel, alignments, retrieval lists, poses."""

import threading

import numpy as np
import pytest
import scipy.io
from inloc_scene import FLOOR, rigid, write_alignment, write_mat5, write_mat73

from d2_hloc.benchmarks.inloc import data as inloc
from d2_hloc.benchmarks.inloc.data import InLocError
from d2_hloc.benchmarks.inloc.lists import (
    Candidate,
    ListedPose,
    read_list,
    read_retrieval,
    write_list,
)
from d2_hloc.benchmarks.inloc.pose_files import QueryPoses, combine, from_list
from d2_hloc.benchmarks.inloc.scans import MapCache, points_at, read_cutout_map

CUTOUT = f"database/cutouts/{FLOOR}/007/DUC_cutout_007_150_-30.jpg"
OTHER = f"database/cutouts/{FLOOR}/006/DUC_cutout_006_30_-30.jpg"
QUERIES = [f"query/iphone7/IMG_{k:04}.JPG" for k in range(3)]


def plane(width=7, height=5):
    """A wall 2 m away whose point is 2 cm further along for each pixel."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([0.02 * x, 0.02 * y, np.full(x.shape, 2.0)], axis=-1).astype(np.float32)


def at(xyz, x, y):
    return points_at(xyz, np.array([[x, y]], dtype=float))[0]


def test_a_keypoint_at_a_pixels_centre_gets_that_pixels_point():
    xyz = np.random.default_rng(0).normal(size=(5, 7, 3))
    assert at(xyz, 4.0, 2.0).tolist() == xyz[2, 4].tolist()
    assert at(xyz, 6.0, 4.0).tolist() == xyz[4, 6].tolist()
    assert at(xyz, 0.0, 0.0).tolist() == xyz[0, 0].tolist()


def test_between_pixels_it_is_bilinear():
    assert np.allclose(at(plane(), 2.25, 1.5), [0.045, 0.03, 2.0])


@pytest.mark.parametrize(("x", "y"), [(-0.4, 2.0), (6.4, 2.0), (3.0, -0.4), (3.0, 4.4)])
def test_beyond_the_last_centre_but_in_the_image_it_is_the_borders(x, y):
    expected = [0.02 * np.clip(x, 0, 6), 0.02 * np.clip(y, 0, 4), 2.0]
    assert np.allclose(at(plane(), x, y), expected)


@pytest.mark.parametrize(("x", "y"), [(-0.6, 2.0), (6.6, 2.0), (3.0, -9.0), (3.0, 4.6)])
def test_outside_of_the_image_there_is_no_point(x, y):
    assert np.isnan(at(plane(), x, y)).all()


def test_neighbours_without_depth_do_not_count():
    xyz = plane()
    xyz[:, 3] = np.nan
    assert np.allclose(at(xyz, 2.4, 1.5), [0.04, 0.03, 2.0])
    assert np.isnan(at(xyz, 2.6, 1.5)).all()
    assert np.isnan(at(xyz, 3.0, 1.0)).all()
    assert np.allclose(at(xyz, 2.0, 1.0), [0.04, 0.02, 2.0])


def test_neighbours_of_another_surface_do_not_count():
    xyz = plane()
    xyz[:, 3:, 2] = 5.0
    assert at(xyz, 2.4, 1.0)[2] == 2.0
    assert at(xyz, 2.6, 1.0)[2] == 5.0


def test_no_keypoints_have_no_points():
    assert points_at(plane(), np.empty((0, 2))).shape == (0, 3)


@pytest.mark.parametrize("write", [write_mat5, write_mat73])
def test_both_versions_of_mat_hold_the_same(tmp_path, write):
    rgb = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    write(tmp_path / "a.mat", XYZcut=plane().astype(float), RGBcut=rgb)
    found = read_cutout_map(tmp_path / "a.mat")
    assert np.array_equal(found.xyz, plane())
    assert found.xyz.dtype == np.float32
    assert np.array_equal(found.rgb, rgb)


def damage_cut(path):
    write_mat5(path, XYZcut=np.random.default_rng(0).normal(size=(50, 70, 3)))
    path.write_bytes(path.read_bytes()[:5000])


def damage_cut_73(path):
    write_mat73(path, XYZcut=np.random.default_rng(0).normal(size=(50, 70, 3)))
    path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.write_bytes(b""), "is damaged or no .mat file"),
        (lambda path: path.write_text("no .mat at all, but a text"), "is damaged or no .mat file"),
        (damage_cut, "is damaged or no .mat file"),
        (damage_cut_73, "is damaged or no .mat file"),
        (lambda path: write_mat5(path, other=plane()), "holds no XYZcut"),
        (lambda path: write_mat73(path, other=plane()), "holds no XYZcut"),
        (lambda path: write_mat5(path, XYZcut=plane()[..., 0]), r"is of shape \(5, 7\)"),
        (lambda path: write_mat5(path, XYZcut=plane() * np.nan), "no pixel of XYZcut has a point"),
    ],
)
def test_what_is_wrong_with_a_map_is_said_with_its_name(tmp_path, write, expected):
    write(tmp_path / "a.mat")
    with pytest.raises(InLocError, match=rf"a\.mat: .*{expected}|a\.mat: {expected}"):
        read_cutout_map(tmp_path / "a.mat")


def test_the_cache_reads_once_and_is_bounded(tmp_path, monkeypatch):
    read = []

    def counted(path):
        read.append(path.name)
        return read_cutout_map(path)

    monkeypatch.setattr("d2_hloc.benchmarks.inloc.scans.read_cutout_map", counted)
    for name in "abc":
        write_mat5(tmp_path / f"{name}.mat", XYZcut=plane())
    cache = MapCache(capacity=2 * plane().nbytes)
    for name in "ababcab":
        cache[tmp_path / f"{name}.mat"]
    assert "".join(name[0] for name in read) == "abcab"


def test_threads_share_the_cache(tmp_path):
    write_mat5(tmp_path / "a.mat", XYZcut=plane())
    cache, found = MapCache(), []
    threads = [
        threading.Thread(target=lambda: found.append(cache[tmp_path / "a.mat"])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(f.xyz, plane()) for f in found)
    assert len(found) == 4


def test_the_alignment_is_the_one_after_refinement(tmp_path):
    write_alignment(inloc.alignment_path(tmp_path, CUTOUT), rigid(3))
    assert inloc.alignment_path(tmp_path, CUTOUT).name == "DUC_trans_007.txt"
    assert np.allclose(inloc.read_alignment(tmp_path, CUTOUT), rigid(3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "lines 8 to 11 are not a rotation"),
        ("x\n" * 11, "lines 8 to 11 are not numbers"),
        ("1 2 3 4\n" * 11, "lines 8 to 11 are not a rotation"),
        ("\n" * 7 + "1 0 0 0\n0 1 0\n0 0 1 0\n0 0 0 1\n", "lines 8 to 11 are not numbers"),
    ],
)
def test_a_damaged_alignment_is_named(tmp_path, text, expected):
    path = inloc.alignment_path(tmp_path, CUTOUT)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(InLocError, match=rf"DUC_trans_007\.txt: {expected}"):
        inloc.read_alignment(tmp_path, CUTOUT)


def test_a_list_of_pairs_keeps_its_order(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text(f"{QUERIES[0]} {CUTOUT}\n{QUERIES[1]} {OTHER}\n{QUERIES[0]} {OTHER}\n")
    assert read_retrieval(path, 100) == {
        QUERIES[0]: [Candidate(cutout=CUTOUT), Candidate(cutout=OTHER)],
        QUERIES[1]: [Candidate(cutout=OTHER)],
    }
    assert len(read_retrieval(path, 1)[QUERIES[0]]) == 1
    path.write_text(f"{QUERIES[0]} {QUERIES[1]}\n")
    with pytest.raises(InLocError, match="is no cutout; the names begin with database/cutouts/"):
        read_retrieval(path, 1)


def cell(names):
    return np.array(names, dtype=object).reshape(1, -1)


def test_a_matrix_of_scores_is_sorted(tmp_path):
    names = {"query": ["IMG_0000.JPG", "IMG_0001.JPG"], "cutout": []}
    names["cutout"] = [inloc.short_name(n) for n in (CUTOUT, OTHER)]
    for kind, found in names.items():
        key = f"{kind}_imgnames_all"
        scipy.io.savemat(tmp_path / f"{key}.mat", {key: cell(found)})
    path = tmp_path / "scores.mat"
    scipy.io.savemat(path, {"score": np.array([[0.2, 0.7], [0.9, 0.1]])})
    found = read_retrieval(path, 100)
    assert [(c.cutout, c.score) for c in found[QUERIES[0]]] == [(OTHER, 0.7), (CUTOUT, 0.2)]
    assert [c.cutout for c in found[QUERIES[1]]] == [CUTOUT, OTHER]
    scipy.io.savemat(path, {"score": np.ones((3, 2))})
    with pytest.raises(InLocError, match=r"shape \(3, 2\), but 2 queries and 2 cutouts"):
        read_retrieval(path, 100)


def pose(seed, score, cutout=CUTOUT):
    return ListedPose(cutout=cutout, score=score, matrix=rigid(seed)[:3])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_image_list_survives_a_round_trip(tmp_path, count):
    poses = [pose(k, 3.0 - k, (CUTOUT, OTHER)[k % 2]) for k in range(count)]
    lists = dict.fromkeys(QUERIES[:count], poses)
    path = write_list(tmp_path / "ImgList.mat", lists)
    found = read_list(path)
    assert list(found) == QUERIES[:count]
    for ours, read in zip(poses, found[QUERIES[0]], strict=True):
        assert (ours.cutout, ours.score) == (read.cutout, read.score)
        assert np.allclose(ours.matrix, read.matrix)
    assert [c.cutout for c in read_retrieval(path, 9)[QUERIES[0]]] == [p.cutout for p in poses]


def test_an_image_list_holds_queries_without_a_pose(tmp_path):
    nothing = ListedPose(cutout=CUTOUT, score=0.0, matrix=None)
    path = write_list(tmp_path / "ImgList.mat", {QUERIES[0]: [nothing], QUERIES[1]: []})
    found = read_list(path)
    assert found[QUERIES[0]] == [nothing]
    assert found[QUERIES[1]] == []
    assert from_list(found)[0].reason == "the list has no pose"


def test_a_list_of_matlab_without_poses_is_a_retrieval_list(tmp_path):
    """MATLAB writes the cell and the score of its one candidate as scalars."""
    entry = {"queryname": "IMG_0000.JPG", "topNname": cell([inloc.short_name(CUTOUT)])}
    path = tmp_path / "list.mat"
    scipy.io.savemat(path, {"ImgList_original": entry | {"topNscore": 0.5}})
    assert read_retrieval(path, 9) == {QUERIES[0]: [Candidate(cutout=CUTOUT, score=0.5)]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"cut", "is damaged or no .mat file"),
        ({"other": 1.0}, "holds neither ImgList nor score"),
        ({"ImgList": {"queryname": "a"}}, "ImgList lacks queryname, topNname or topNscore"),
    ],
)
def test_a_wrong_list_is_named(tmp_path, content, expected):
    path = tmp_path / "list.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        scipy.io.savemat(path, content)
    with pytest.raises(InLocError, match=rf"list\.mat: {expected}"):
        read_retrieval(path, 1)


def test_of_two_lists_each_query_gets_the_pose_of_the_higher_score():
    one = from_list({QUERIES[0]: [pose(0, 2.0)], QUERIES[1]: [pose(1, 1.0)]})
    other = from_list({QUERIES[0]: [pose(2, 1.0)], QUERIES[1]: [pose(3, 5.0)], QUERIES[2]: []})
    found = {query.name: query for query in combine(one, other)}
    assert [found[q].best.score for q in QUERIES[:2]] == [2.0, 5.0]
    assert found[QUERIES[2]].best is None
    nothing = [QueryPoses(name=QUERIES[0], reason="why")]
    assert combine(nothing, one[:1]) == one[:1]


def test_reads_the_published_lists(shared):
    """The names that InLoc's authors give: 356 queries, 9972 cutouts."""
    folder = shared / "data/real-metadata/inloc"
    for kind, count in (("query", 356), ("cutout", 9972)):
        names = scipy.io.loadmat(folder / f"{kind}_imgnames_all.mat")[f"{kind}_imgnames_all"]
        assert names.size == count
    found = read_retrieval(folder / "pairs-query-netvlad20.txt", 20)
    assert len(found) == 356
    assert {len(candidates) for candidates in found.values()} == {19, 20}  # one line is there twice
    assert inloc.short_name(next(iter(found))) == "IMG_0764.JPG"


def test_scores_beside_the_published_names(shared, tmp_path):
    folder = shared / "data/real-metadata/inloc"
    for kind in ("query", "cutout"):
        name = f"{kind}_imgnames_all.mat"
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    scores = np.zeros((356, 9972))
    scores[0, 123] = 1.0
    scipy.io.savemat(tmp_path / "scores.mat", {"score": scores}, do_compression=True)
    found = read_retrieval(tmp_path / "scores.mat", 2)
    names = scipy.io.loadmat(folder / "cutout_imgnames_all.mat")["cutout_imgnames_all"]
    assert found["query/iphone7/IMG_0731.JPG"][0].cutout.endswith(str(names[0, 123][0]))


def test_reads_the_layout(shared):
    data = inloc.read_inloc(shared / "data/inloc-mini")
    assert len(data.queries) == len(data.cutouts) == 12
    assert inloc.scan_of(data.cutouts[0]) == "database/cutouts/DUC1/000"
    with pytest.raises(InLocError, match="there is no such folder"):
        inloc.read_inloc(shared / "nowhere")
