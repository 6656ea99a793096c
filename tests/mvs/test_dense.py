"""From a model to a dense cloud: rendered images give back their surfaces, through any kill."""

import dataclasses
import json
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from dense_scene import name_of, write_scene
from PIL import Image
from stereo_scene import BALL, FLOOR, WALL, texture

from d2_hloc.core import config
from d2_hloc.core.images import ImageError
from d2_hloc.files.atomic import DiskFull
from d2_hloc.files.colmap import ModelError, pycolmap, read_model
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.mvs import reconstruct, workspace
from d2_hloc.mvs.cloud import num_vertices, read_point_cloud
from d2_hloc.mvs.map_files import is_stereo_map, read_stereo_map, write_depth_h5, write_stereo_map
from d2_hloc.mvs.options import DenseOptions, FusionOptions, MeshOptions, SweepOptions
from d2_hloc.mvs.reconstruct import choose_backend, make_mesh, reconstruct_dense, sweep_view
from d2_hloc.mvs.statistics import dense_statistics, surface_distances
from d2_hloc.mvs.workspace import WorkspaceReader, read_workspace
from d2_hloc.training.depth_maps import read_depth
from d2_hloc.training.make_scene import make_training_scene
from d2_hloc.training.scene_info import SceneError

OPTIONS = DenseOptions(backend="torch", sweep=SweepOptions(hypotheses=48))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    return folder, write_scene(folder)


def run(scene, output, options=OPTIONS):
    return reconstruct_dense(options, scene[0] / "sparse", scene[0] / "images", output)


@pytest.fixture(scope="module")
def whole(scene):
    """A finished workspace and its statistics; tests change copies of it only."""
    output = scene[0] / "whole"
    return output, run(scene, output)


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "copy")
    return tmp_path / "copy"


def distance_to_surfaces(points):
    """Signed distance to the nearest of the rendered surfaces."""
    distances = [(points @ n - d) / np.linalg.norm(n) for n, d in (WALL, FLOOR)]
    distances.append(np.linalg.norm(points - BALL[0], axis=1) - BALL[1])
    distances = np.stack(distances)
    return np.take_along_axis(distances, np.abs(distances).argmin(axis=0)[None], axis=0)[0]


def test_the_depth_is_that_of_the_scene(scene, whole):
    for k, rendered in enumerate(scene[1]):
        depth = read_stereo_map(whole[0] / "stereo/depth_maps" / f"{name_of(k)}.geometric.bin")
        is_found = depth > 0
        assert is_found.mean() > 0.7
        assert np.median(np.abs(depth / rendered.depth - 1)[is_found]) < 0.002


def test_the_cloud_lies_on_the_surfaces_in_their_colours(whole):
    model = pycolmap.Reconstruction()
    model.import_PLY(whole[0] / "fused.ply")
    points = np.array([p.xyz for p in model.points3D.values()])
    colours = np.array([p.color for p in model.points3D.values()]) / 255
    distances = distance_to_surfaces(points)
    assert np.median(np.abs(distances)) < 0.01  # at a depth of 4 to 7
    assert abs(np.median(distances)) < 0.002
    assert np.abs(colours - texture(points)).mean() < 0.03
    # A half pixel is 13 mm to 18 mm here, and shows in the colours.
    assert np.abs(colours - texture(points + np.array([0.015, 0.015, 0]))).mean() > 0.035


def test_statistics_tell_what_was_found(whole):
    output, found = whole
    assert found.depth_maps == 5
    assert found.points == len(read_point_cloud(output / "fused.ply")) > 10_000
    assert found.median_relative_error < 0.002
    assert found.share_within_1_percent > 0.93
    assert 0 < found.median_surface_distance < 0.01
    assert found.depth_share > 0.7
    assert found.sparse_share > 0.8


def test_smaller_images_give_the_same_surfaces(scene, tmp_path):
    found = run(scene, tmp_path / "small", dataclasses.replace(OPTIONS, max_image_size=151))
    assert found.median_relative_error < 0.004
    distances = distance_to_surfaces(read_point_cloud(tmp_path / "small" / "fused.ply"))
    assert abs(np.median(distances)) < 0.004


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.bin")}


def clouds_equal(*folders):
    clouds = [read_point_cloud(f / "fused.ply") for f in folders]
    return all(np.array_equal(np.sort(c, axis=0), np.sort(clouds[0], axis=0)) for c in clouds)


def test_a_killed_run_goes_on_to_the_same_result(scene, whole, copy):
    stereo = copy / "stereo"
    (stereo / "depth_maps" / "view/0.png.photometric.bin").unlink()
    (stereo / "depth_maps" / "view/1.png.photometric.bin").write_bytes(b"211&160&1&cut")
    halves = [
        stereo / "depth_maps" / "view/0.png.photometric.bin.0123abcd.writing",
        stereo / "depth_maps" / "view/3.png.geometric.bin.0123abcd.writing",
        stereo / "normal_maps" / "view/4.png.geometric.bin.0123abcd.writing",
    ]
    for half in halves:
        half.write_bytes(b"half")
    (stereo / "depth_maps" / "view/3.png.geometric.bin").unlink()
    (stereo / "normal_maps" / "view/4.png.geometric.bin").write_bytes(b"")
    (copy / "fused.ply").unlink()
    (copy / "fused.writing.ply").write_bytes(b"ply")
    assert run(scene, copy).share_within_1_percent == whole[1].share_within_1_percent
    assert not any(half.exists() for half in halves)
    before, after = files_of(whole[0]), files_of(copy)
    assert before == after
    assert clouds_equal(whole[0], copy)


def test_what_is_done_is_not_done_again(scene, whole, copy, monkeypatch):
    swept = []
    original = sweep_view

    def listen(options, reader, view):
        swept.append(view.name)
        return original(options, reader, view)

    monkeypatch.setattr(reconstruct, "sweep_view", listen)
    run(scene, copy)
    assert swept == []
    (copy / "stereo/depth_maps/view/2.png.photometric.bin").unlink()
    run(scene, copy)
    assert swept == ["view/2.png"]


def test_a_kill_while_undistorting_leaves_no_workspace(scene, whole, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(workspace.pycolmap, "undistort_images", killed)
        with pytest.raises(KeyboardInterrupt):
            run(scene, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(scene, tmp_path / "out")
    assert not (tmp_path / "out.undistorting").exists()
    assert files_of(tmp_path / "out") == files_of(whole[0])


@pytest.mark.parametrize("name", ["stereo", "stereo/depth_maps/view", "fused.ply"])
def test_a_workspace_is_written_through_no_link(scene, whole, copy, tmp_path, name):
    outside = tmp_path / "outside"
    (copy / name).rename(outside)
    (copy / name).symlink_to(outside)
    before = {p: p.stat().st_mtime_ns for p in (outside, *outside.rglob("*"))}
    with pytest.raises(ValueError, match=f"{name}: is a link, and a run writes into its own"):
        run(scene, copy)
    assert {p: p.stat().st_mtime_ns for p in (outside, *outside.rglob("*"))} == before


def test_fusion_may_change_but_depth_maps_may_not(scene, whole, copy):
    few = dataclasses.replace(OPTIONS, fusion=FusionOptions(min_num_pixels=5))
    assert 0 < run(scene, copy, few).points < whole[1].points
    other = dataclasses.replace(OPTIONS, sweep=SweepOptions(hypotheses=48, min_ncc=0.7))
    with pytest.raises(ConfigurationChanged) as error:
        run(scene, copy, other)
    assert '"min_ncc": 0.6' in str(error.value)
    assert '"min_ncc": 0.7' in str(error.value)
    assert "Choose another folder" in str(error.value)


def test_another_model_is_refused(scene, copy, tmp_path):
    model = read_model(scene[0] / "sparse")
    model.delete_point3D(next(iter(model.point3D_ids())))
    (tmp_path / "sparse").mkdir()
    model.write(tmp_path / "sparse")
    with pytest.raises(ConfigurationChanged, match=r'There: \{"model_crc32": '):
        reconstruct_dense(OPTIONS, tmp_path / "sparse", scene[0] / "images", copy)


def test_a_folder_of_others_is_refused(scene, tmp_path):
    (tmp_path / "photo.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds what this program did not make"):
        run(scene, tmp_path)
    (tmp_path / "dense.json").write_text("[")
    with pytest.raises(ValueError, match=r"dense\.json: is damaged"):
        run(scene, tmp_path)


@pytest.fixture
def images(scene, tmp_path):
    shutil.copytree(scene[0] / "images", tmp_path / "images")
    return tmp_path / "images"


def test_a_photograph_that_was_replaced_is_refused(scene, images, copy):
    record = copy / "dense.json"
    made_by = json.loads(record.read_text())
    record.write_text(json.dumps(made_by | {"images": str(images.resolve())}))
    reconstruct_dense(OPTIONS, scene[0] / "sparse", images, copy)
    data = (images / "view/3.png").read_bytes()
    (images / "view/3.png").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ImageError, match=r"view/3\.png: changed since .*copy was made"):
        reconstruct_dense(OPTIONS, scene[0] / "sparse", images, copy)


def test_a_missing_image_is_named(scene, images, tmp_path):
    (images / "view/3.png").unlink()
    with pytest.raises(ModelError, match=r"view/3\.png: there is no such image"):
        reconstruct_dense(OPTIONS, scene[0] / "sparse", images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_of_another_size_is_named(scene, images, tmp_path):
    Image.new("RGB", (100, 50)).save(images / "view/3.png")
    with pytest.raises(ModelError, match=r"view/3\.png: is 100 x 50 pixels, but its camera in the"):
        reconstruct_dense(OPTIONS, scene[0] / "sparse", images, tmp_path / "out")


def test_a_damaged_image_is_named(scene, images, tmp_path):
    path = images / "view/3.png"
    data = path.read_bytes()
    for found in (b"nothing", data[:2000]):  # COLMAP takes what is missing of an image for black
        path.write_bytes(found)
        with pytest.raises(ImageError, match=r"view/3\.png: cannot be read as an image"):
            reconstruct_dense(OPTIONS, scene[0] / "sparse", images, tmp_path / "out")


def test_an_image_that_colmap_skips_is_named(scene, tmp_path, monkeypatch):
    original = pycolmap.undistort_images

    def skip_one(output, *arguments, **options):
        original(output, *arguments, **options)
        (output / "images/view/3.png").unlink()

    monkeypatch.setattr(workspace.pycolmap, "undistort_images", skip_one)
    with pytest.raises(ModelError, match=r"view/3\.png: COLMAP could not undistort it"):
        run(scene, tmp_path / "out")


def test_a_model_without_points_is_refused(scene, tmp_path):
    model = read_model(scene[0] / "sparse")
    for point_id in list(model.point3D_ids()):
        model.delete_point3D(point_id)
    (tmp_path / "sparse").mkdir()
    model.write(tmp_path / "sparse")
    with pytest.raises(ModelError, match="has no points to take depths from; triangulate it"):
        reconstruct_dense(OPTIONS, tmp_path / "sparse", scene[0] / "images", tmp_path / "out")


def test_a_full_disk_is_one_sentence_before_the_work(scene, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda _: usage(9 << 20, 8 << 20, 1 << 20))
    with pytest.raises(DiskFull, match="4 MiB are needed for 5 images and their maps, and 1 are"):
        run(scene, tmp_path / "out")


def test_a_cloud_that_was_cut_short_is_not_kept(scene, copy, monkeypatch):
    before = (copy / "fused.ply").read_bytes()

    def cut(path, *_, **__):
        path.write_bytes(before[:5000])

    monkeypatch.setattr(reconstruct.pycolmap, "stereo_fusion", cut)
    with pytest.raises(DiskFull, match=r"fused\.ply: the disk is full"):
        run(scene, copy)
    assert (copy / "fused.ply").read_bytes() == before


def test_a_view_without_company_has_no_depth(whole):
    workspace = read_workspace(whole[0], 4)
    view = dataclasses.replace(workspace.views["view/0.png"], sources=())
    depth = sweep_view(OPTIONS, WorkspaceReader(workspace, torch.device("cpu")), view)
    assert depth.shape == (160, 211)
    assert depth.count_nonzero() == 0


def test_no_depth_gives_an_empty_cloud(scene, copy):
    for path in (copy / "stereo/depth_maps").rglob("*.bin"):
        write_stereo_map(path, np.zeros((160, 211), np.float32))
    for path in (copy / "stereo/normal_maps").rglob("*.bin"):
        write_stereo_map(path, np.zeros((3, 160, 211), np.float32))
    found = run(scene, copy)
    assert (found.points, found.depth_share, found.sparse_share) == (0, 0.0, 0.0)
    assert found.median_relative_error is None
    assert found.median_surface_distance is None
    with pytest.raises(ModelError, match=r"fused\.ply: 0 points are too few for a mesh"):
        make_mesh(MeshOptions(), copy)


def test_a_mesh_follows_the_cloud(copy):
    path = make_mesh(MeshOptions(depth=6, trim=3.0), copy)
    vertices = read_point_cloud(path)
    assert len(vertices) > 500
    assert np.median(np.abs(distance_to_surfaces(vertices))) < 0.05


def test_a_mesh_that_fails_is_one_sentence(copy, tmp_path, monkeypatch):
    (tmp_path / "crashing_mesh.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(reconstruct, "MESH_PROGRAM", "crashing_mesh")
    with pytest.raises(ModelError, match="no mesh could be made of its points"):
        make_mesh(MeshOptions(), copy)
    assert not (copy / "mesh.ply").exists()


def test_colmaps_backend_needs_cuda(monkeypatch):
    monkeypatch.setattr(reconstruct.pycolmap, "has_cuda", False)
    assert choose_backend("auto") == choose_backend("torch") == "torch"
    with pytest.raises(ValueError, match="'colmap' needs a pycolmap that was built with CUDA"):
        choose_backend("colmap")


def test_colmaps_backend_needs_a_gpu_as_well(monkeypatch):
    monkeypatch.setattr(reconstruct.pycolmap, "has_cuda", True)
    monkeypatch.setattr(reconstruct.torch.cuda, "is_available", lambda: False)
    assert choose_backend("auto") == "torch"
    monkeypatch.setattr(reconstruct.torch.cuda, "is_available", lambda: True)
    assert choose_backend("auto") == choose_backend("colmap") == "colmap"


def test_colmaps_maps_are_taken_where_it_makes_them(scene, whole, tmp_path, monkeypatch):
    """PatchMatch itself needs a GPU: here it gives exact maps, with what it marks as invalid."""
    rendered = scene[1]

    def patch_match(path, options):
        assert not options.geom_consistency
        stereo = path / "stereo"
        assert not list(stereo.rglob("*.photometric.bin"))
        for k, r in enumerate(rendered):
            depth = r.depth.astype(np.float32)
            depth[:10] = -1
            normals = np.zeros((3, *depth.shape), np.float32)
            normals[2] = -1
            write_stereo_map(stereo / "depth_maps" / f"{name_of(k)}.photometric.bin", depth)
            write_stereo_map(stereo / "normal_maps" / f"{name_of(k)}.photometric.bin", normals)

    monkeypatch.setattr(reconstruct, "choose_backend", lambda _: "colmap")
    monkeypatch.setattr(reconstruct.pycolmap, "patch_match_stereo", patch_match)
    output = tmp_path / "out"
    cut = reconstruct.BACKENDS["colmap"]
    monkeypatch.setitem(reconstruct.BACKENDS, "colmap", lambda o, w: (plant_cut_map(w), cut(o, w)))
    found = run(scene, output)
    assert found.median_relative_error < 0.002
    normals = read_stereo_map(output / "stereo/normal_maps/view/0.png.geometric.bin")
    assert normals[2].max() == -1
    depth = read_stereo_map(output / "stereo/depth_maps/view/0.png.geometric.bin")
    assert depth[:10].max() == 0 == depth.min()


def plant_cut_map(workspace):
    path = workspace.map_path("view/0.png", "depth", "photometric")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"211&160&1&cut")


def test_maps_have_depth_and_normals_together_and_nothing_that_is_not_finite(whole):
    for name, view in read_workspace(whole[0], 4).views.items():
        depth = read_stereo_map(whole[0] / "stereo/depth_maps" / f"{name}.geometric.bin")
        normals = read_stereo_map(whole[0] / "stereo/normal_maps" / f"{name}.geometric.bin")
        assert depth.shape == view.size
        assert np.isfinite(depth).all()
        assert np.isfinite(normals).all()
        assert depth.min() == 0
        lengths = np.linalg.norm(normals, axis=0)
        assert np.allclose(lengths[depth > 0], 1, atol=1e-5)
        assert lengths[depth == 0].max() == 0
        photometric = whole[0] / "stereo/depth_maps" / f"{name}.photometric.bin"
        assert is_stereo_map(photometric, *view.size)


def test_the_workspaces_model_has_pixel_centres_at_integers(scene, whole):
    before, after = read_model(scene[0] / "sparse"), read_model(whole[0] / "sparse")
    for image_id, image in after.images.items():
        original = before.images[image_id]
        shift = original.camera.params[2:] - image.camera.params[2:]
        assert shift.tolist() == [0.5, 0.5]
        assert np.allclose(original.points2D[0].xy - image.points2D[0].xy, 0.5)


def test_views_have_sources_and_ranges_around_their_points(scene, whole):
    views = read_workspace(whole[0], 3).views
    for k, rendered in enumerate(scene[1]):
        view = views[name_of(k)]
        assert len(set(view.sources) - {view.name}) == 3
        assert view.near < np.percentile(rendered.depth, 5)
        assert view.far > np.percentile(rendered.depth, 95)


def test_another_folder_is_no_workspace(scene):
    with pytest.raises(ModelError, match="is not a workspace of dense stereo"):
        read_workspace(scene[0], 4)


def test_megadepths_form_has_the_depth_and_what_leads_to_it(scene, whole, tmp_path):
    folder = whole[0]
    info = np.load(make_training_scene(folder, folder, tmp_path), allow_pickle=True)
    for k, rendered in enumerate(scene[1]):
        assert info["image_paths"][k] == f"linked/0000/images/{name_of(k)}"
        assert (tmp_path / info["image_paths"][k]).resolve() == folder / "images" / name_of(k)
        depth = read_depth(tmp_path / info["depth_paths"][k])
        geometric = read_stereo_map(folder / "stereo/depth_maps" / f"{name_of(k)}.geometric.bin")
        assert np.array_equal(depth, geometric)
        shift = info["intrinsics"][k] - rendered.view.K.numpy()
        assert np.allclose(shift, [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        assert np.allclose(info["poses"][k][:3], rendered.view.cam_from_world)
        assert info["poses"][k][3].tolist() == [0, 0, 0, 1]
        places = info["points3D_id_to_2D"][k]
        assert len(places) == info["n_points3D"][k] == len(info["points3D_id_to_ndepth"][k])


def test_megadepths_pairs_overlap_by_the_rows_points(whole, tmp_path):
    info = np.load(make_training_scene(whole[0], whole[0], tmp_path), allow_pickle=True)
    seen = [set(places) for places in info["points3D_id_to_2D"]]
    share = len(seen[0] & seen[3]) / len(seen[0])
    assert info["overlap_matrix"][0, 3] == pytest.approx(share)
    assert (np.diag(info["overlap_matrix"]) == -1).all()
    ndepth = info["points3D_id_to_ndepth"]
    ratios = [ndepth[0][i] / ndepth[3][i] for i in seen[0] & seen[3]]
    least = min(max(r, 1 / r) for r in ratios)
    assert info["scale_ratio_matrix"][0, 3] == pytest.approx(least)
    assert info["scale_ratio_matrix"][3, 0] == pytest.approx(least)


def test_options_pass_through_a_file():
    assert config.from_dict(DenseOptions, config.to_dict(OPTIONS)) == OPTIONS
    with pytest.raises(config.ConfigError, match="max_image_size must be from 64 to 1"):
        config.from_dict(DenseOptions, {"max_image_size": -1})
    with pytest.raises(config.ConfigError, match=r"num_sources must be from 1 to .*, not 0"):
        config.from_dict(DenseOptions, {"num_sources": 0})


def test_statistics_read_what_is_there(copy):
    found = dense_statistics(read_workspace(copy, 4))
    assert json.dumps(dataclasses.asdict(found))


def test_distances_are_to_the_surface_and_not_to_its_points():
    x, y = np.meshgrid(np.linspace(0, 1, 20), np.linspace(0, 1, 20))
    cloud = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1)
    points = np.array([[0.512, 0.487, 0.0], [0.3, 0.3, 0.02]])
    assert surface_distances(points, cloud) == pytest.approx([0, 0.02])
    assert len(surface_distances(points, cloud[:3])) == 0


HEADER = b"ply\nformat binary_little_endian 1.0\n"
ASCII = b"ply\nformat ascii 1.0\n"
HUGE = b"element vertex 999999999999999\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is missing or not a binary PLY file"),
        (b"ply\nformat ascii 1.0\nend_header\n", "is missing or not a binary PLY file"),
        (b"ply\nelement vertex 1\n", "is missing or not a binary PLY file"),
        (HEADER + b"end_header\n", "is missing or not a binary PLY file"),
        (HEADER + b"element vertex 3\nend_header\n1234", "is missing or not a binary PLY file"),
        (HEADER + b"element vertex -1\nproperty int x\nend_header\n", "is missing or not a binary"),
        (HEADER + b"element vertex 1\nproperty int x\nend_header\n1234", "is missing or not a"),
        (HEADER + b"element vertex 1\n" + b"#" * (1 << 20), "is missing or not a binary PLY file"),
        (HEADER + b"element vertex 2\nproperty float x\nend_header\n1234", "is cut short"),
        (HEADER + HUGE + b"property float x\nend_header\n1234", "is cut short"),
        (HEADER + HUGE + b"property list int int x\nend_header\n1234", "is missing or not a"),
        (ASCII + HUGE + b"property float x\nend_header\n1\n", "is missing or not a binary PLY"),
    ],
)
def test_a_damaged_or_hostile_cloud_is_named(tmp_path, data, message):
    path = tmp_path / "fused.ply"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        num_vertices(path)


def test_dense_stereo_of_its_own_folder_or_among_the_images_is_refused(scene, whole, tmp_path):
    with pytest.raises(ModelError, match="is a folder of dense stereo, of images that were undist"):
        reconstruct_dense(OPTIONS, whole[0] / "sparse", whole[0] / "images", tmp_path / "out")
    with pytest.raises(ValueError, match="lies among the images of"):
        reconstruct_dense(OPTIONS, scene[0] / "sparse", scene[0] / "images", scene[0] / "images/o")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "view/0.png",
            np.ones((5, 4), np.float32),
            r"0.png.h5: is of 4 x 5 pixels, but its",
        ),
        ("view/1.png", None, r"1.png.h5: holds no depth that can be read"),
    ],
)
def test_a_depth_map_that_does_not_fit_makes_no_scene(whole, tmp_path, name, content, text):
    for k in range(5):
        depth = read_stereo_map(whole[0] / "stereo/depth_maps" / f"{name_of(k)}.geometric.bin")
        write_depth_h5(tmp_path / "depths" / f"{name_of(k)}.h5", depth)
    path = tmp_path / "depths" / f"{name}.h5"
    path.write_bytes(b"no") if content is None else write_depth_h5(path, content)
    with pytest.raises(SceneError, match=text):
        make_training_scene(whole[0], tmp_path / "depths", tmp_path / "out")
    assert not (tmp_path / "out" / "scene_info").exists()
    with pytest.raises(SceneError, match="is no name of a scene"):
        make_training_scene(whole[0], whole[0], tmp_path / "out", name="../x")
    with pytest.raises(SceneError, match="is no name of a scene"):
        make_training_scene(whole[0], whole[0], tmp_path / "out", name="..")
