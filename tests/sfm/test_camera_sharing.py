"""Images of one camera: grouped by EXIF, estimated together, kept through triangulation."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic import synthesize, write_matches

from d2_hloc.app import cli
from d2_hloc.core.exif import ExifCamera, read_header
from d2_hloc.files.colmap import open_database, pycolmap, read_model
from d2_hloc.files.outputs import Outputs
from d2_hloc.sfm.cameras.camera_lines import CameraError
from d2_hloc.sfm.cameras.intrinsics import Intrinsics
from d2_hloc.sfm.cameras.sharing import NO_ID, cameras_of, count_cameras, groups_of
from d2_hloc.sfm.database import build_database, verify_geometry
from d2_hloc.sfm.options import LocalizationOptions, ReconstructionOptions
from d2_hloc.sfm.pnp import FeaturedModel, MatchedQueries, localize
from d2_hloc.sfm.pose_errors import model_poses, pose_errors
from d2_hloc.sfm.triangulation import triangulate

MAKE, MODEL, PHOTO = 0x010F, 0x0110, 0x8769
FOCAL_LENGTH, FOCAL_LENGTH_35 = 0x920A, 0xA405
PHONE = {MAKE: "Maker", MODEL: "Phone", FOCAL_LENGTH: 4.5, FOCAL_LENGTH_35: 28}


def photograph(folder, name, size=(64, 48), tags=None):
    """A grey image with these tags of EXIF."""
    exif = Image.Exif()
    for tag, value in (tags or {}).items():
        (exif if tag in (MAKE, MODEL) else exif.get_ifd(PHOTO))[tag] = value
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 90, 90)).save(path, exif=exif)
    return name


def names_of(folder, *arguments):
    return [photograph(folder, *given) for given in arguments]


def test_the_camera_is_read_from_exif(tmp_path):
    photograph(tmp_path, "a.jpg", (64, 48), PHONE)
    header = read_header(tmp_path / "a.jpg")
    camera = ExifCamera(
        make="Maker", model="Phone", focal_length=4.5, focal_length_35=28, digital_zoom=1
    )
    assert (header.size, header.orientation, header.camera) == ((64, 48), 1, camera)


@pytest.mark.parametrize("missing", [MAKE, MODEL, "focal"])
def test_exif_that_does_not_tell_the_camera_names_none(tmp_path, missing):
    lost = (FOCAL_LENGTH, FOCAL_LENGTH_35) if missing == "focal" else (missing,)
    tags = {tag: value for tag, value in PHONE.items() if tag not in lost}
    photograph(tmp_path, "a.jpg", (64, 48), tags)
    assert read_header(tmp_path / "a.jpg").camera is None


def test_damaged_exif_is_as_none(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_header(tmp_path / "a.jpg").camera is None
    (tmp_path / "b.jpg").write_bytes(b"no image")
    assert read_header(tmp_path / "b.jpg") is None


def test_auto_is_one_camera_where_size_and_exif_agree(tmp_path):
    zoomed, other = PHONE | {FOCAL_LENGTH: 9.0}, PHONE | {MODEL: "Other"}
    given = [
        ("a/1.jpg", (64, 48), PHONE),
        ("a/2.jpg", (64, 48), zoomed),
        ("a/3.jpg", (48, 64), PHONE),
        ("a/4.jpg", (64, 48), other),
        ("a/5.jpg", (64, 48)),
        ("a/6.jpg", (64, 48)),
        ("b/1.jpg", (64, 48), PHONE),
    ]
    groups = groups_of(tmp_path, names_of(tmp_path, *given), "auto")
    assert [g for g in groups if len(g) > 1] == [["a/1.jpg", "b/1.jpg"]]


def test_a_folder_of_one_size_without_exif_is_one_camera_and_it_is_said(tmp_path, caplog):
    given = [("a/1.png", (64, 48)), ("a/2.png", (64, 48)), ("a/3.png", (48, 64))]
    given += [("b/1.png", (64, 48)), ("c/1.png", (64, 48)), ("c/2.png", (65, 48))]
    given += [("c/3.png", (64, 48))]
    with caplog.at_level(logging.INFO):
        groups = groups_of(tmp_path, names_of(tmp_path, *given), "auto")
    assert [g for g in groups if len(g) > 1] == [["a/1.png", "a/2.png"]]  # c/ is of several sizes
    assert "2 images of 64 x 48 in a/ have no camera in their EXIF" in caplog.text
    assert "choose --cameras per-image" in caplog.text


def test_other_ways_to_share(tmp_path):
    names = names_of(tmp_path, ("a/1.png",), ("a/2.png",), ("b/1.png",))
    count = {
        way: len(groups_of(tmp_path, names, way)) for way in ("single", "per-folder", "per-image")
    }
    assert count == {"single": 1, "per-folder": 2, "per-image": 3}


@pytest.mark.parametrize("sharing", ["single", "per-folder"])
def test_one_camera_of_two_sizes_is_refused(tmp_path, sharing):
    names = names_of(tmp_path, ("1.png", (64, 48)), ("2.png", (48, 64)))
    with pytest.raises(CameraError, match=rf"cameras {sharing}: 1\.png is 64 x 48 and 2\.png is"):
        groups_of(tmp_path, names, sharing)


def test_known_cameras_stay_their_own_and_the_rest_share(tmp_path):
    names = names_of(tmp_path, *((f"{k}.png",) for k in range(4)))
    path = tmp_path / "intrinsics.txt"
    path.write_text("1.png PINHOLE 64 48 50 50 32 24\n")
    cameras = cameras_of(tmp_path, names, Intrinsics.read(path), "OPENCV", "auto")
    assert {name: camera.model_name for name, camera in cameras.items()} == {
        "0.png": "OPENCV",
        "1.png": "PINHOLE",
        "2.png": "OPENCV",
        "3.png": "OPENCV",
    }
    assert cameras["1.png"].camera_id == NO_ID
    assert count_cameras(cameras) == 2


def database_of(scene, path, cameras, rigs=None):
    build_database(path, cameras, scene.pairs, scene.features, scene.matches, rigs)
    verify_geometry(path, scene.pairs, ReconstructionOptions(), scene.matches)
    return path


@pytest.mark.parametrize("count", [1, 2])
def test_cameras_and_rigs_of_a_model_survive_triangulation(tmp_path, count):
    scene = synthesize(tmp_path, cameras_of_rig=count)
    rigs = scene.model if count > 1 else None
    without = sorted(scene.cameras)[0]  # an image that could not be used
    cameras = {name: camera for name, camera in scene.cameras.items() if name != without}
    path = database_of(scene, tmp_path / "database.db", cameras, rigs)
    with open_database(path) as db:
        assert db.num_cameras() == count
    sparse = tmp_path / "sparse"
    triangulate(ReconstructionOptions(), scene.model, path, tmp_path, sparse)
    model = read_model(sparse)
    assert (model.num_cameras(), model.num_rigs(), model.num_reg_images()) == (count, 1, 5)
    assert model.num_points3D() > 100
    assert [rig.num_sensors() for rig in model.rigs.values()] == [count]
    found, truth = model_poses(model), model_poses(scene.model)
    assert sorted(found) == sorted(cameras)
    for name, pose in found.items():
        np.testing.assert_allclose(pose.matrix(), truth[name].matrix(), atol=1e-9)


def guessed(scene, shared):
    """The cameras as a guess that is 30 % off, one for all or one for each image."""
    cameras = {}
    for k, name in enumerate(sorted(scene.cameras)):
        params = [1.3 * 1280, 512, 384, 0]
        camera = pycolmap.Camera(model="SIMPLE_RADIAL", width=1024, height=768, params=params)
        camera.camera_id = 1 if shared else k + 1
        cameras[name] = camera
    return dict.fromkeys(cameras, next(iter(cameras.values()))) if shared else cameras


def test_chance_matches_of_one_guessed_camera_are_no_pair(tmp_path, monkeypatch):
    scene = synthesize(tmp_path, noise=1.0, cameras_of_rig=1)
    names = sorted(scene.cameras)
    shuffled = dict(scene.ids)
    shuffled[names[0]] = np.random.default_rng(0).permutation(scene.ids[names[0]])
    matches, path, asked = tmp_path / "mixed.h5", tmp_path / "mixed.db", []
    write_matches(matches, scene.pairs, shuffled)
    build_database(path, guessed(scene, True), scene.pairs, scene.features, matches)
    verify = pycolmap.verify_matches

    def listen(database, listed, options):
        asked.extend(Path(listed).read_text().splitlines())
        verify(database, listed, options)

    monkeypatch.setattr(pycolmap, "verify_matches", listen)
    verify_geometry(path, scene.pairs, ReconstructionOptions(), matches)
    assert sorted(asked) == [f"{a} {b}" for a, b in scene.pairs if names[0] not in (a, b)]
    with pycolmap.Database.open(path) as database:
        _, counts = database.read_two_view_geometry_num_inliers()
        images = [database.read_image_with_name(name).image_id for name in names]
        assert all(database.exists_two_view_geometry(images[0], i) for i in images[1:])
    assert [count > 100 for count in counts] == [True] * len(asked)


def test_queries_of_one_camera_share_its_focal_length(tmp_path):
    scene = synthesize(tmp_path, noise=1.0, cameras_of_rig=1)
    names = sorted(scene.cameras)
    both_ways = [(a, b) for a in names for b in names if a != b]
    matches, truth, errors = tmp_path / "queries.h5", model_poses(scene.model), {}
    write_matches(matches, both_ways, scene.ids)
    for shared in (False, True):
        cameras = guessed(scene, shared)
        queries = MatchedQueries(
            cameras=cameras, pairs=both_ways, features=scene.features, matches=matches
        )
        model = FeaturedModel(reconstruction=scene.model, features=scene.features)
        found = localize(LocalizationOptions(), model, queries, Outputs(tmp_path))
        poses = {result.name: result.cam_from_world for result in found}
        errors[shared] = np.mean([e[0] for e in pose_errors(poses, truth).values()])
        lengths = {camera.focal_length for camera in cameras.values()}
        assert len(lengths) == (1 if shared else len(names))
        assert max(abs(length - 1280) for length in lengths) < 60
    assert errors[True] < 0.7 * errors[False]


def test_the_command_shares_cameras_and_takes_a_model(small_run, tmp_path):
    output = tmp_path / "out"
    arguments = ["reconstruct", str(small_run.images), str(output), "--resize-max", "240"]
    arguments += ["--refinement", "off", "--camera-model", "SIMPLE_PINHOLE"]
    assert cli.main([*arguments, "--cameras", "single"]) == 0
    model = read_model(output / "sparse")
    assert model.num_cameras() == 1
    assert {camera.model_name for camera in model.cameras.values()} == {"SIMPLE_PINHOLE"}
    assert '"cameras": 1,' in (output / "run.json").read_text()
    assert cli.main([*arguments, "--cameras", "per-image"]) == 1  # another configuration
    dense = ["dense", str(output), str(tmp_path / "dense"), "--max-image-size", "160"]
    assert cli.main(dense) == 0
    placed = tmp_path / "placed"
    queries = ["localize", str(output), str(small_run.queries), str(placed)]
    assert cli.main([*queries, "--cameras", "single", "--camera-model", "ROUND"]) == 1
