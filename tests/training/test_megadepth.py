"""Training pairs from depth, on a slanted plane rendered from two poses with its exact depth."""

import logging
import os
import pickle
import shutil

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hostile_pickles import BUFFER_AS_OBJECTS, BYTES_AS_OBJECTS
from PIL import Image

from d2_hloc.core.names import UnsafeName
from d2_hloc.files.colmap import ModelError
from d2_hloc.training.depth_maps import corresponding_pixels, interpolate, read_depth
from d2_hloc.training.make_scene import make_training_scene
from d2_hloc.training.megadepth import MegaDepthOptions, MegaDepthPairs, ScenePart, part_of
from d2_hloc.training.pair import cell_centres
from d2_hloc.training.scene_info import (
    SceneError,
    SceneImage,
    SceneInfo,
    find_scenes,
    read_scene,
    read_scene_list,
)

SIZE = 200, 160
INTRINSICS = np.array([[180.0, 0, 97.3], [0, 182.0, 81.9], [0, 0, 1]])
NORMAL, OFFSET = np.array([0.2, -0.1, 1.0]), 4.0  # the plane is NORMAL @ x = OFFSET
EXTENT = 2.6  # half the side of the painted part
OPTIONS = MegaDepthOptions(crop=128, pairs_per_scene=3)


def rotation(axis, degrees):
    a, b = [i for i in range(3) if i != axis]
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(3)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def pose(turn, translation):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, translation
    return matrix


POSES = [
    pose(rotation(1, 3), [0.1, 0, 0.2]),
    pose(rotation(1, -9) @ rotation(2, 8), [-0.4, 0.15, 0.5]),
]


def plane_points(cam_from_world, uv):
    """Points of the plane (N, 3), in the world, seen at COLMAP's pixels, and their depths."""
    rays = np.c_[uv, np.ones(len(uv))] @ np.linalg.inv(INTRINSICS).T
    turn, translation = cam_from_world[:3, :3], cam_from_world[:3, 3]
    directions, centre = rays @ turn, -turn.T @ translation
    depth = (OFFSET - NORMAL @ centre) / (directions @ NORMAL)
    return centre + depth[:, None] * directions, depth


def projected(cam_from_world, points):
    """COLMAP's pixels of points in the world."""
    camera = points @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    uv = camera @ INTRINSICS.T
    return uv[:, :2] / uv[:, 2:]


def render(cam_from_world):
    """An image whose red and green count along the plane, and its depth."""
    width, height = SIZE
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    points, depth = plane_points(cam_from_world, np.stack([x.ravel(), y.ravel()], axis=1))
    paint = np.c_[(points[:, :2] / EXTENT + 1) / 2, np.full(len(points), 0.5)]
    image = (paint * 255).round().clip(0, 255).astype(np.uint8).reshape(height, width, 3)
    return Image.fromarray(image), depth.reshape(height, width).astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images, depth maps and a COLMAP model as text."""
    folder = tmp_path_factory.mktemp("plane")
    for part in ("images", "depths", "model"):
        (folder / part / "walk").mkdir(parents=True)
    names = ["walk/a.png", "walk/b.png"]
    for name, cam_from_world in zip(names, POSES, strict=True):
        image, depth = render(cam_from_world)
        image.save(folder / "images" / name)
        with h5py.File(folder / "depths" / f"{name}.h5", "w") as file:
            file["depth"] = depth
    write_model(folder / "model", names)
    return folder


def write_model(folder, names, camera="PINHOLE 200 160 180 182 97.3 81.9"):
    """Ten points, of which image 1 sees eight."""
    from scipy.spatial.transform import Rotation

    uv = np.random.default_rng(0).uniform(60, 110, (10, 2))
    points, _ = plane_points(POSES[0], uv)
    (folder / "cameras.txt").write_text(f"1 {camera}\n")
    lines, seen = [], [range(10), range(8)]
    for k, (name, cam_from_world) in enumerate(zip(names, POSES, strict=True)):
        x, y, z, w = Rotation.from_matrix(cam_from_world[:3, :3]).as_quat()
        numbers = " ".join(map(str, [w, x, y, z, *cam_from_world[:3, 3]]))
        lines.append(f"{k + 1} {numbers} 1 {name}")
        xy = projected(cam_from_world, points)
        lines.append(" ".join(f"{xy[i, 0]} {xy[i, 1]} {i + 1}" for i in seen[k]))
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    tracks = [" ".join(f"{k + 1} {i}" for k in (0, 1) if i in seen[k]) for i in range(10)]
    rows = (f"{i + 1} {' '.join(map(str, p))} 1 2 3 0.1 {tracks[i]}" for i, p in enumerate(points))
    (folder / "points3D.txt").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def scenes(data):
    """The same scene in both forms: made from the model, and as LoFTR lists its pairs."""
    folder = data / "scenes"
    made = make_training_scene(data / "model", data / "depths", folder, data / "images", "0042")
    pairs = np.empty(2, dtype=object)
    pairs[0], pairs[1] = ((0, 1), 0.8, np.zeros((3, 4))), ((1, 0), 0.2, None)
    listed = folder / "loftr" / "0042_0.1_0.7.npz"
    listed.parent.mkdir()
    np.savez(
        listed,
        image_paths=np.array(["images/walk/a.png", "images/walk/b.png"], dtype=object),
        depth_paths=np.array(["depths/walk/a.png.h5", "depths/walk/b.png.h5"], dtype=object),
        intrinsics=np.array([INTRINSICS, INTRINSICS], dtype=object),
        poses=np.array(POSES, dtype=object),
        pair_infos=pairs,
    )
    return {"d2net": made, "loftr": listed}


def sample(image, xy):
    """Bilinear values (K, 3) at pixels (x, y)."""
    size = torch.tensor(image.shape[:0:-1])
    grid = (2 * xy / (size - 1) - 1)[None, None]
    return F.grid_sample(image[None], grid, align_corners=True)[0, :, 0].T


@pytest.mark.parametrize("form", ["d2net", "loftr"])
@pytest.mark.parametrize("index", range(3))
def test_both_ends_show_the_same_place_of_the_plane(scenes, data, form, index):
    """Within a pixel: a step of the paint is about one."""
    root = data if form == "loftr" else data / "scenes"
    source = MegaDepthPairs(OPTIONS, root, [scenes[form]], seed=1)
    pair = source.pair(0, index)
    assert len(source) == 3
    assert pair.image0.shape == pair.image1.shape == (3, 128, 128)
    assert len(pair) >= 128
    ends = [sample(i, xy) for i, xy in ((pair.image0, pair.xy0), (pair.image1, pair.xy1))]
    apart = (ends[0] - ends[1])[:, :2] * 2 * EXTENT * INTRINSICS[0, 0] / OFFSET
    assert apart.norm(dim=1).max() < 1
    assert apart.mean(dim=0).abs().max() < 0.1


def test_correspondences_are_exact_where_the_plane_is_known(scenes):
    views = read_scene(scenes["d2net"], (0.5, 1), np.inf).views
    depths = [render(p)[1] for p in POSES]
    xy0, xy1 = corresponding_pixels(views[0], views[1], *depths, cell_centres(*SIZE), 0.05)
    points, _ = plane_points(POSES[0], xy0 + 0.5)
    assert len(xy0) > 200
    assert np.abs(projected(POSES[1], points) - 0.5 - xy1).max() < 0.01


def test_what_is_hidden_does_not_correspond(scenes):
    views = read_scene(scenes["d2net"], (0.5, 1), np.inf).views
    depth0, depth1 = (render(p)[1] for p in POSES)
    open0, open1 = corresponding_pixels(
        views[0], views[1], depth0, depth1, cell_centres(*SIZE), 0.05
    )
    screened = depth1.copy()
    screened[:, 100:] *= 0.9  # a screen before the right half
    xy0, xy1 = corresponding_pixels(views[0], views[1], depth0, screened, cell_centres(*SIZE), 0.05)
    assert (open1[:, 0] < 99).sum() <= len(xy0) < len(open0)
    assert 90 < xy1[:, 0].max() < 99.5
    assert not len(corresponding_pixels(views[0], views[1], 0 * depth0, depth1, open0, 0.05)[0])


def test_depth_lies_between_its_pixels_and_needs_all_four():
    depth = np.array([[1.0, 2, 3], [3, 4, 0]])
    values, known = interpolate(depth, np.array([[0.5, 0.5], [1.5, 0.5], [2, 0], [-0.1, 0]]))
    assert values[0] == 2.5
    assert known.tolist() == [True, False, False, False]
    assert interpolate(depth, np.array([[np.nan, 0.0]]))[1].tolist() == [False]


def test_a_scene_made_from_a_model_has_d2nets_form(scenes, data):
    info = np.load(scenes["d2net"], allow_pickle=True)
    assert info["image_paths"][0] == "linked/0042/images/walk/a.png"
    assert info["depth_paths"][0] == "linked/0042/depths/walk/a.png.h5"
    assert (data / "scenes" / info["image_paths"][0]).samefile(data / "images/walk/a.png")
    assert np.allclose(info["intrinsics"][1], INTRINSICS)
    assert np.allclose(info["poses"][1], POSES[1])
    assert info["n_points3D"].tolist() == [10, 8]
    assert info["overlap_matrix"].tolist() == [[-1, 0.8], [1, -1]]  # of the row's points
    shared = info["points3D_id_to_2D"][1]
    points = np.array([plane_points(POSES[1], np.array([uv]))[1][0] for uv in shared.values()])
    assert np.allclose(list(info["points3D_id_to_ndepth"][1].values()), points / 181)
    depths = [info["points3D_id_to_ndepth"][k] for k in (0, 1)]
    ratios = [max(depths[0][i] / depths[1][i], depths[1][i] / depths[0][i]) for i in depths[1]]
    assert np.allclose(info["scale_ratio_matrix"], [[-1, min(ratios)], [min(ratios), -1]])


def test_pairs_keep_to_the_limits_in_both_forms(scenes):
    for form, both, strict in (("d2net", [[0, 1], [1, 0]], [[1, 0]]), ("loftr", [[0, 1]], [])):
        assert read_scene(scenes[form], (0.5, 1), np.inf).pairs.tolist() == both
        assert read_scene(scenes[form], (0.9, 1), np.inf).pairs.tolist() == strict
    assert read_scene(scenes["loftr"], (0.1, 1), np.inf).pairs.tolist() == [[0, 1], [1, 0]]
    assert not len(read_scene(scenes["d2net"], (0.5, 1), 1.0).pairs)


def test_an_epoch_and_an_index_give_the_same_pair_always(scenes, data):
    root, made = data / "scenes", [scenes["d2net"]]
    first, again = (MegaDepthPairs(OPTIONS, root, made, seed=2) for _ in range(2))
    again = pickle.loads(pickle.dumps(again))  # as it goes to a worker process
    one, same, other = first.pair(1, 2), again.pair(1, 2), first.pair(2, 2)
    assert torch.equal(one.image1, same.image1)
    assert torch.equal(one.xy1, same.xy1)
    assert not torch.equal(one.image1, other.image1)


def test_images_held_back_of_a_scene_are_in_no_pair_to_train_with():
    rows = range(3, 13)
    view = SceneImage(image="", depth="", intrinsics=np.eye(3), cam_from_world=np.eye(4))
    pairs = np.array([(i, j) for i in rows for j in rows if i != j])
    scene = SceneInfo(views=dict.fromkeys(rows, view), pairs=pairs)
    train, held = (
        part_of(scene, ScenePart(share=0.2, is_held_back=h)).pairs for h in (False, True)
    )
    assert len(train) + len(held) == len(pairs)
    unseen = set(rows) - set(train.ravel().tolist())
    assert len(unseen) == 2
    assert all(unseen & set(pair) for pair in held.tolist())


def write_views(path, data, **changes):
    """A scene of two views in LoFTR's form."""
    pairs = np.empty(1, dtype=object)
    pairs[0] = ((0, 1), 0.8, None)
    values = {
        "image_paths": np.array(["images/walk/a.png", "images/walk/b.png"], dtype=object),
        "depth_paths": np.array(["depths/walk/a.png.h5", "depths/walk/b.png.h5"], dtype=object),
        "intrinsics": np.array([INTRINSICS] * 2),
        "poses": np.array(POSES),
        "pair_infos": pairs,
    }
    np.savez(path, **values | changes)
    return path


def missing(name):
    return np.array(["depths/walk/a.png.h5", name], dtype=object)


def test_views_without_depth_are_never_paired(tmp_path, data):
    path = write_views(tmp_path / "1.npz", data, depth_paths=missing(None))
    scene = read_scene(path, (0.5, 1), np.inf)
    assert list(scene.views) == [0]
    assert not len(scene.pairs)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "lost.h5: there is no such depth map. The pair is left out."),
        (np.zeros((5, 4)), "is 4 x 5 but its image is 200 x 160"),
        (np.zeros((5, 4, 2)), "its depth has 3 dimensions instead of 2"),
        ("other", "holds no depth that can be read; fetch it again"),
    ],
)
def test_a_bad_depth_map_leaves_its_pair_out_by_name(tmp_path, data, caplog, content, text):
    path = write_views(tmp_path / "1.npz", data, depth_paths=missing("lost.h5"))
    for folder in ("images", "depths"):
        (tmp_path / folder).symlink_to(data / folder)
    if content is not None:
        with h5py.File(tmp_path / "lost.h5", "w") as file:
            file["other" if isinstance(content, str) else "depth"] = (
                1 if isinstance(content, str) else content
            )
    with caplog.at_level(logging.WARNING):
        assert MegaDepthPairs(OPTIONS, tmp_path, [path], seed=0).pair(0, 0) is None
    assert text in caplog.text


def test_a_crop_larger_than_an_image_gives_no_pair(scenes, data):
    options = MegaDepthOptions(crop=256)
    assert MegaDepthPairs(options, data, [scenes["loftr"]], seed=0).pair(0, 0) is None


def test_depth_that_is_not_a_number_is_none(tmp_path):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["depth"] = np.array([[np.nan, -1.0], [np.inf, 2.0]])
    assert read_depth(tmp_path / "d.h5").tolist() == [[0, 0], [0, 2]]


class Foreign:
    def __reduce__(self):
        return os.getcwd, ()


def test_a_scene_that_would_run_something_is_refused(tmp_path, data):
    path = write_views(tmp_path / "1.npz", data, pair_infos=np.array([Foreign()], dtype=object))
    with pytest.raises(SceneError, match=r"1.npz: refused, since it asks for posix.getcwd"):
        read_scene(path, (0.5, 1), np.inf)


@pytest.mark.parametrize("attack", [BYTES_AS_OBJECTS, BUFFER_AS_OBJECTS])
def test_bytes_of_a_scene_are_never_taken_for_objects(tmp_path, data, attack):
    """They were followed as pointers, which ended the process."""
    pairs = np.empty(1, dtype=object)
    pairs[0] = attack
    path = write_views(tmp_path / "1.npz", data, pair_infos=pairs)
    with pytest.raises(SceneError, match=r"1\.npz: "):
        read_scene(path, (0.5, 1), np.inf)


@pytest.mark.parametrize("key", ["image_paths", "depth_paths"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.png"])
def test_a_scene_whose_paths_lead_out_of_the_data_set_is_refused(tmp_path, data, key, name):
    path = write_views(tmp_path / "1.npz", data, **{key: np.array(["a", name], dtype=object)})
    with pytest.raises(UnsafeName, match=rf"1.npz: the image name '{name}'"):
        read_scene(path, (0.5, 1), np.inf)


def test_scenes_below_the_data_set_need_no_links(tmp_path, data):
    for folder in ("model", "images", "depths"):
        shutil.copytree(data / folder, tmp_path / folder)
    given = tmp_path / "model", tmp_path / "depths", tmp_path, tmp_path / "images"
    info = np.load(make_training_scene(*given), allow_pickle=True)
    assert info["image_paths"].tolist() == ["images/walk/a.png", "images/walk/b.png"]
    assert info["depth_paths"].tolist() == ["depths/walk/a.png.h5", "depths/walk/b.png.h5"]
    assert not (tmp_path / "linked").exists()


def test_scenes_that_cannot_be_read_name_file_and_remedy(tmp_path):
    with pytest.raises(SceneError, match=r"none.npz: there is no such scene"):
        read_scene(tmp_path / "none.npz", (0, 1), np.inf)
    (tmp_path / "torn.npz").write_bytes(b"PK no")
    with pytest.raises(SceneError, match=r"torn.npz: is not a scene .* fetch it again"):
        read_scene(tmp_path / "torn.npz", (0, 1), np.inf)
    np.savez(tmp_path / "other.npz", image_paths=np.zeros(2))
    with pytest.raises(SceneError, match=r"other.npz: .*it has no depth_paths"):
        read_scene(tmp_path / "other.npz", (0, 1), np.inf)


def test_finds_the_files_of_scenes_in_every_naming(tmp_path):
    for name in ("0000.npz", "0001.0.npz", "0002_0.1_0.3.npz", "0002_0.3_0.5.npz", "0003.npz"):
        (tmp_path / name).touch()
    found = find_scenes(tmp_path, ["0000", "0001", "0002"])
    assert [p.name for p in found] == [
        "0000.npz",
        "0001.0.npz",
        "0002_0.1_0.3.npz",
        "0002_0.3_0.5.npz",
    ]
    assert len(find_scenes(tmp_path, None)) == 5
    with pytest.raises(SceneError, match=r"holds no scene of the 1 scenes listed"):
        find_scenes(tmp_path, ["0009"])


def test_a_scene_list_is_read_or_named(tmp_path):
    (tmp_path / "list.txt").write_text("0000\n0001\n\n")
    assert read_scene_list(tmp_path / "list.txt") == ["0000", "0001"]
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(SceneError, match="names no scene"):
        read_scene_list(tmp_path / "list.txt")
    with pytest.raises(SceneError, match="cannot be read"):
        read_scene_list(tmp_path / "lost.txt")


def test_a_distorted_model_or_missing_depth_says_what_to_do(tmp_path, data):
    names = ["walk/a.png", "walk/b.png"]
    write_model(tmp_path, names, "SIMPLE_RADIAL 200 160 180 97.3 81.9 0.1")
    with pytest.raises(SceneError, match=r"walk/a.png has a camera of model SIMPLE_RADIAL; give"):
        make_training_scene(tmp_path, data / "depths", tmp_path / "out", data / "images")
    with pytest.raises(SceneError, match=r"holds depth maps of 0 of the 2 images"):
        make_training_scene(data / "model", tmp_path, tmp_path / "out", data / "images")
    with pytest.raises(ModelError, match=r"lost: there is no such folder; name the images' by"):
        make_training_scene(data / "model", data / "depths", tmp_path / "out", tmp_path / "lost")
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match=r"overlaps must be in \[0, 1\], not 0.9 to 0.5"):
        MegaDepthOptions(min_overlap=0.9, max_overlap=0.5)
