"""Models for other programs: their points fall where the images show them, in each one's form."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from d2_hloc.app import cli
from d2_hloc.core.images import ImageError
from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.photographs.masks import save_mask
from d2_hloc.files.colmap import ModelError, camera_of, img_from_cam, pycolmap, read_model
from d2_hloc.sfm.cameras.intrinsics import read_intrinsics
from d2_hloc.sfm.exporting.export import TARGETS, ExportSource, export
from d2_hloc.sfm.pose_errors import model_poses

SIZE = (160, 120)
FLIP = np.diag([1.0, -1.0, -1.0])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model through a lens that bends; each image is black with one white dot of a pixel."""
    folder = tmp_path_factory.mktemp("export")
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=5,
        num_frames_per_rig=1,
        num_points3D=40,
        camera_model_id=pycolmap.CameraModelId.SIMPLE_RADIAL,
        camera_width=SIZE[0],
        camera_height=SIZE[1],
        camera_params=[150.0, 80.0, 60.0, -0.2],
    )
    pycolmap.set_random_seed(0)
    model = pycolmap.synthesize_dataset(options)
    for image in model.images.values():
        image.name = f"a b/{image.image_id}.png"
        values = np.zeros((SIZE[1], SIZE[0]), np.uint8)
        column, row = dot_of(image.image_id)
        values[row, column] = 255
        path = folder / "images" / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).convert("RGB").save(path)
    (folder / "sparse").mkdir()
    model.write(folder / "sparse")
    return ExportSource(model=folder / "sparse", images=folder / "images")


def dot_of(image_id):
    """Column and row of an image's dot, far from its middle, where the lens bends."""
    return 20 + 29 * image_id % 120, 15 + 41 * image_id % 90


def places(model):
    """Places of points (N, 3) and where each image sees them (N, 2), by name."""
    found = {}
    for image in model.images.values():
        seen = [p for p in image.points2D if p.has_point3D()]
        xyz = np.array([model.points3D[p.point3D_id].xyz for p in seen])
        found[image.name] = xyz, np.array([p.xy for p in seen])
    return found


@pytest.fixture(scope="module")
def undistorted(source, tmp_path_factory):
    """The folder that is made for splatting, and its model."""
    output = export(source, "splatting", tmp_path_factory.mktemp("out") / "splatting")
    return output, read_model(output / "sparse" / "0")


def test_splatting_gets_pinholes_in_colmaps_pixels(source, undistorted):
    output, model = undistorted
    assert {camera.model_name for camera in model.cameras.values()} == {"PINHOLE"}
    assert sorted(path.name for path in output.iterdir()) == ["images", "sparse"]
    for image in model.images.values():
        xyz, xy = places(model)[image.name]
        projected = img_from_cam(camera_of(image), image.cam_from_world() * xyz)
        np.testing.assert_allclose(projected, xy, atol=1e-3)
    original = read_model(source.model)
    shifts = []
    for image in original.images.values():
        values = np.asarray(Image.open(output / "images" / image.name).convert("L"), float)
        rows, columns = np.indices(values.shape)
        weights = values / values.sum()
        centre = np.array([(weights * columns).sum(), (weights * rows).sum()]) + 0.5
        dot = np.array(dot_of(image.image_id)) + 0.5  # the centre of its pixel, as COLMAP has it
        ray = np.append(camera_of(image).cam_from_img(dot), 1.0)
        camera = next(c for n, c in cameras(model).items() if n == image.name)
        shifts.append(centre - img_from_cam(camera, ray[None])[0])
    assert abs(np.mean(shifts, axis=0)).max() < 0.15  # half a pixel would show


def cameras(model):
    return {image.name: camera_of(image) for image in model.images.values()}


def test_nerfstudio_gets_frames_that_show_the_points(source, undistorted, tmp_path):
    output = export(source, "nerfstudio", tmp_path / "out")
    values = json.loads((output / "transforms.json").read_text())
    expected = places(undistorted[1])
    for frame in values["frames"]:
        name = frame["file_path"].removeprefix("images/")
        assert Image.open(output / frame["file_path"]).size == (frame["w"], frame["h"])
        xyz, xy = expected[name]
        pose = np.array(frame["transform_matrix"])
        local = (xyz - pose[:3, 3]) @ pose[:3, :3] @ FLIP
        u = frame["fl_x"] * local[:, 0] / local[:, 2] + frame["cx"]
        v = frame["fl_y"] * local[:, 1] / local[:, 2] + frame["cy"]
        np.testing.assert_allclose(np.stack([u, v], axis=1), xy, atol=1e-3)
    assert len(values["frames"]) == len(expected)
    assert (output / values["ply_file_path"]).stat().st_size > 500
    read = read_intrinsics(output / "transforms.json")
    assert {camera.width for camera in read.values()} == {f["w"] for f in values["frames"]}


def test_bundlers_points_are_from_the_middle_upwards(source, undistorted, tmp_path):
    output = export(source, "bundler", tmp_path / "out")
    lines = (output / "bundle.out").read_text().splitlines()
    names = [x.removeprefix("images/") for x in (output / "list.txt").read_text().splitlines()]
    count, num_points = map(int, lines[1].split())
    assert (count, num_points) == (5, 40)
    table = [np.array(line.split(), float) for line in lines[2:]]
    checked = 0
    for k in range(num_points):
        xyz, _, views = table[5 * count + 3 * k : 5 * count + 3 * k + 3]
        for index, _, x, y in views[1:].reshape(-1, 4):
            focal, *rotation, translation = table[5 * int(index) : 5 * int(index) + 5]
            local = np.array(rotation) @ xyz + translation
            found = -focal[0] * local[:2] / local[2]  # Bundler's own formula
            np.testing.assert_allclose(found, [x, y], atol=0.5)
            checked += 1
    assert checked > 100
    assert names == sorted(places(undistorted[1]))


def test_openmvs_gets_the_model_beside_its_images(source, tmp_path):
    output = export(source, "openmvs", tmp_path / "out", max_image_size=80)
    assert (output / "sparse" / "cameras.txt").read_text().count("PINHOLE") >= 5
    camera = next(iter(read_model(output / "sparse").cameras.values()))
    assert max(camera.width, camera.height) <= 80


def test_kapture_gets_images_cameras_poses_and_points(source, tmp_path):
    output = export(source, "kapture", tmp_path / "out")
    rows = {
        path.name: [line.split(", ") for line in path.read_text().splitlines() if line[0] != "#"]
        for path in output.rglob("*.txt")
    }
    model = read_model(source.model)
    assert [row[2:4] for row in rows["sensors.txt"]] == [["camera", "SIMPLE_RADIAL"]] * 5
    names = {row[0]: row[2] for row in rows["records_camera.txt"]}
    for time, _, *pose in rows["trajectories.txt"]:
        expected = model_poses(model)[names[time]]
        w, x, y, z, *translation = map(float, pose)
        np.testing.assert_allclose(expected.rotation.quat, [x, y, z, w], atol=1e-9)
        np.testing.assert_allclose(expected.translation, translation, atol=1e-9)
        assert (output / "sensors" / "records_data" / names[time]).is_file()
    assert len(rows["points3d.txt"]) == model.num_points3D()


@pytest.fixture(scope="module")
def masked(source, tmp_path_factory):
    """The same with masks that are white where the image's dot is, and none of the first image."""
    folder = tmp_path_factory.mktemp("masks")
    for image_id in range(2, 6):
        shown = np.zeros(SIZE[::-1], bool)
        column, row = dot_of(image_id)
        shown[row - 3 : row + 4, column - 3 : column + 4] = True
        save_mask(folder / f"a b/{image_id}.png.png", shown)
    return replace(source, masks=MaskOptions(folder=folder))


def test_kaptures_own_reader_takes_it(source, tmp_path):
    reader = pytest.importorskip(
        "kapture.io.csv", reason="kapture (pip install kapture) is not here"
    )
    found = reader.kapture_from_dir(str(export(source, "kapture", tmp_path / "out")))
    model = read_model(source.model)
    names = [name for taken in found.records_camera.values() for name in taken.values()]
    assert sorted(names) == sorted(model_poses(model))
    assert found.points3d.as_array().shape == (model.num_points3D(), 6)
    assert str(next(iter(found.sensors.values())).camera_type).endswith("SIMPLE_RADIAL")


def test_nerfstudios_own_parser_takes_it(masked, undistorted, tmp_path):
    name, reason = "nerfstudio.data.dataparsers.nerfstudio_dataparser", "nerfstudio is not here"
    parser = pytest.importorskip(name, reason=reason)
    output = export(masked, "nerfstudio", tmp_path / "out")
    config = parser.NerfstudioDataParserConfig(
        data=output,
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        eval_mode="all",
        downscale_factor=1,
    )
    found = config.setup().get_dataparser_outputs("train")
    both = found.image_filenames, found.cameras.camera_to_worlds
    assert [path.name for path in found.mask_filenames] == [f"{k}.png.png" for k in range(1, 6)]
    poses = {p.name: q for p, q in zip(*both, strict=True)}
    for image in undistorted[1].images.values():
        expected = image.cam_from_world().inverse().matrix()
        expected[:, :3] = expected[:, :3] @ FLIP
        name = image.name.rpartition("/")[2]
        np.testing.assert_allclose(poses[name].numpy(), expected, atol=1e-5)


def test_nerfstudio_gets_masks_of_all_its_images(masked, tmp_path):
    output = export(masked, "nerfstudio", tmp_path / "out")
    for frame in json.loads((output / "transforms.json").read_text())["frames"]:
        image = np.asarray(Image.open(output / frame["file_path"]).convert("L"))
        mask = np.asarray(Image.open(output / frame["mask_path"]))
        assert mask.shape == image.shape
        assert mask.all() == frame["file_path"].endswith("/1.png")
        assert mask[image > 20].all()  # the dot, where the lens has moved it
        assert frame["file_path"].endswith("/1.png") or 20 < (mask > 0).sum() < 90


def test_openmvs_gets_masks_by_its_own_names(masked, tmp_path):
    output = export(masked, "openmvs", tmp_path / "out")
    names = [f"{k}.mask.png" for k in range(2, 6)]
    assert sorted(path.name for path in (output / "masks").iterdir()) == names


def test_masks_that_are_not_there_stop_those_who_take_them(source, tmp_path):
    gone = replace(source, masks=MaskOptions(folder=tmp_path / "gone"))
    with pytest.raises(ImageError, match="gone: there is no such folder of masks"):
        export(gone, "nerfstudio", tmp_path / "out")
    assert export(gone, "splatting", tmp_path / "out").is_dir()


def test_images_of_12_bits_are_bright_for_other_programs(source, tmp_path):
    for path in (source.images / "a b").iterdir():
        values = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        (tmp_path / "a b").mkdir(exist_ok=True)
        Image.fromarray(values * 16).save(tmp_path / "a b" / path.name)
    output = export(replace(source, images=tmp_path), "splatting", tmp_path / "out")
    images = list((output / "images" / "a b").iterdir())
    assert min(np.asarray(Image.open(path)).max() for path in images) > 50
    assert sorted(path.name for path in output.iterdir()) == ["images", "sparse"]


def test_hloc_gets_the_model_and_its_features(small_run, tmp_path, capsys):
    output = tmp_path / "hloc"
    assert cli.main(["export", str(small_run.output), str(output), "--for", "hloc"]) == 0
    assert read_model(output / "sfm").num_reg_images() == 4
    assert sorted(p.name for p in output.glob("*.*")) == ["features.h5", "matches.h5", "pairs.txt"]
    assert cli.main(["export", str(small_run.output), str(output), "--for", "hloc"]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("target", TARGETS)
def test_a_missing_image_is_named_and_nothing_is_left(source, tmp_path, target):
    (tmp_path / "none").mkdir()
    moved = ExportSource(model=source.model, images=tmp_path / "none")
    with pytest.raises(ModelError, match=r"\.png: there is no such image; name their folder"):
        export(moved, target, tmp_path / "out")
    assert not (tmp_path / "out").exists()
