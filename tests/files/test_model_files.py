"""Models of strangers: what is cut short, left out, or cannot be meant is named."""

import re
import subprocess
import sys
import textwrap

import pytest
from synthetic import synthesize

from d2_hloc.core.names import UnsafeName
from d2_hloc.files.colmap import ModelError, opened_copy, pycolmap, read_model
from d2_hloc.sfm.database import build_database


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("synthetic"), 3, 30)


@pytest.fixture
def text(scene, tmp_path):
    """The model in text."""
    scene.model.write_text(tmp_path)
    return tmp_path


def edit(path, change):
    path.write_text(change(path.read_text()))


def first_lines(count):
    return lambda text: "".join(text.splitlines(keepends=True)[:count])


def without_second_lines(text):
    head, body = text.split("\n")[:4], text.split("\n")[4:]
    return "\n".join(head + body[::2])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("points3D.txt", first_lines(15), "says 30 points and holds 12"),
        ("images.txt", first_lines(8), "says 3 images and holds 2"),
        ("cameras.txt", first_lines(4), "says 3 cameras and holds 1"),
        ("images.txt", without_second_lines, "line 6: should hold the points"),
    ],
)
def test_a_text_file_that_does_not_hold_what_it_says_is_named(text, name, change, said):
    edit(text / name, change)
    with pytest.raises(ModelError, match=rf"{name}(: |, ){said}"):
        read_model(text)


def test_blank_lines_that_were_taken_out_are_missed_without_counts_too(text):
    edit(text / "images.txt", lambda t: re.sub("#.*\n", "", without_second_lines(t)))
    with pytest.raises(ModelError, match=r"images\.txt, line 2: should hold the points"):
        read_model(text)


@pytest.mark.parametrize("form", ["write_text", "write_binary"])
def test_a_model_of_poses_needs_no_points(scene, tmp_path, form):
    getattr(scene.model, form)(tmp_path)
    next(tmp_path.glob("points3D.*")).unlink()
    model = read_model(tmp_path, needs_points=False)
    assert model.num_reg_images() == 3
    assert model.num_points3D() == 0
    for image_id, image in model.images.items():
        expected = scene.model.images[image_id].cam_from_world().matrix()
        assert image.cam_from_world().matrix() == pytest.approx(expected)
        assert image.name == scene.model.images[image_id].name
    with pytest.raises(ModelError, match=r"points3D.*there is no such file"):
        read_model(tmp_path)


def test_points_that_images_observe_and_that_are_gone_are_missed(text):
    edit(text / "points3D.txt", lambda t: re.sub("#.*\n", "", first_lines(15)(t)))
    with pytest.raises(ModelError, match="observe points 90 times, its points hold 36"):
        read_model(text)


@pytest.mark.parametrize("name", ["../outside.jpg", "/etc/passwd", "a/../../b.jpg"])
@pytest.mark.parametrize("form", ["write_text", "write_binary"])
def test_names_that_lead_out_of_the_images_are_refused(scene, tmp_path, form, name):
    renamed(scene.model, name, form, tmp_path)
    with pytest.raises(UnsafeName, match=re.escape(f"{tmp_path}: the image name '{name}'")):
        read_model(tmp_path)


def test_a_name_that_is_there_twice_is_named(scene, tmp_path):
    renamed(scene.model, "view/2.jpg", "write_text", tmp_path)
    with pytest.raises(ModelError, match=r"names the image view/2\.jpg twice"):
        read_model(tmp_path)


def renamed(model, name, form, folder):
    """Write the model, with another name of its first image."""
    before, model.images[1].name = model.images[1].name, name
    try:
        getattr(model, form)(folder)
    finally:
        model.images[1].name = before


def test_a_name_of_bytes_that_are_no_text_is_named(scene, tmp_path):
    scene.model.write_binary(tmp_path)
    data = (tmp_path / "images.bin").read_bytes()
    (tmp_path / "images.bin").write_bytes(data.replace(b"view/1.jpg", b"\xff" * 10))
    with pytest.raises(ModelError, match="one of its images is not in UTF-8"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("camera", "said"),
    [
        ("PINHOLE 1024 768 1e308 1280 512 384", "focal length of 1e+308 is not from"),
        ("PINHOLE 1024 768 0 1280 512 384", "focal length of 0 is not from"),
        ("PINHOLE 1024 768 -5 1280 512 384", "focal length of -5 is not from"),
        ("PINHOLE 1024 768 1280 1280 1e300 384", "principal point at 1e+300 is not from"),
        ("PINHOLE 0 768 1280 1280 512 384", "0 x 768 pixels are not from 1 to 100000"),
        ("SIMPLE_RADIAL 1024 768 1280 512 384 1e9", "distortion of 1e+09 is not from"),
    ],
)
def test_cameras_that_cannot_be_meant_are_named(text, camera, said):
    edit(text / "cameras.txt", lambda t: re.sub("(?m)^1 PINHOLE.*", f"1 {camera}", t))
    with pytest.raises(ModelError, match=re.escape(f"camera 1 cannot be used: a {said}"[:20])) as e:
        read_model(text)
    assert said in str(e.value)


def test_a_pose_that_is_no_number_is_named(scene, tmp_path):
    model = pycolmap.Reconstruction(scene.model)
    pose = pycolmap.Rigid3d(pycolmap.Rotation3d([0, 0, 0, 1]), [float("nan"), 0, 0])
    model.frames[model.images[2].frame_id].rig_from_world = pose
    model.write_binary(tmp_path)
    with pytest.raises(ModelError, match=r"the pose of its image view/2\.jpg is not finite"):
        read_model(tmp_path)


@pytest.mark.parametrize("place", [float("nan"), float("inf")])
def test_a_point_that_is_no_number_is_damage(scene, tmp_path, place):
    model = pycolmap.Reconstruction(scene.model)
    model.points3D[1].xyz = [0, place, 0]
    model.write_binary(tmp_path)
    with pytest.raises(ModelError, match=r"points3D\.bin: is damaged"):
        read_model(tmp_path)


def test_names_of_a_database_that_lead_out_of_the_images_are_refused(scene, tmp_path):
    path = tmp_path / "database.db"
    build_database(path, scene.cameras, scene.pairs, scene.features, scene.matches)
    with pycolmap.Database.open(path) as database:
        image = database.read_all_images()[0]
        image.name = "../../evil.jpg"
        database.update_image(image)
    with pytest.raises(UnsafeName, match=r"database\.db: the image name"), opened_copy(path):
        pass


def test_a_camera_outlives_its_model():
    """pycolmap's own does not: read after the model is gone, it ends the process."""
    program = """
        import gc

        from d2_hloc.files.colmap import camera_of, pycolmap

        options = pycolmap.SyntheticDatasetOptions(num_rigs=2, num_frames_per_rig=1)
        model = pycolmap.synthesize_dataset(options)
        cameras = [camera_of(image) for image in model.images.values()]
        seen = [str(camera) for camera in cameras]
        del model
        gc.collect()
        others = [pycolmap.synthesize_dataset(options) for _ in range(20)]
        assert [str(camera) for camera in cameras] == seen
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
