"""Models from exact matches are the models the matches came from."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import synthesize

from d2_hloc.core.structs import Matches
from d2_hloc.files import features_h5
from d2_hloc.files.atomic import empty_folder
from d2_hloc.files.colmap import (
    ModelError,
    check_database,
    other_models,
    pycolmap,
    read_model,
    sparse_folder,
)
from d2_hloc.files.outputs import MAPPING, Outputs
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.matching.pairs import read_pairs
from d2_hloc.sfm import database as database_module
from d2_hloc.sfm import mapping, pose_errors
from d2_hloc.sfm.database import build_database, verify_geometry
from d2_hloc.sfm.mapping import (
    MAPPERS,
    is_sound,
    map_images,
    mapping_task,
    readjust_model,
)
from d2_hloc.sfm.options import Reconstruct, ReconstructionOptions, VerificationOptions
from d2_hloc.sfm.outcome.statistics import model_statistics
from d2_hloc.sfm.reconstruct import reconstruct
from d2_hloc.sfm.triangulation import triangulate

OPTIONS = ReconstructionOptions()
BY_POSELIB = ReconstructionOptions(verification=VerificationOptions(estimator="poselib"))
BY_COLMAP = ReconstructionOptions(verification=VerificationOptions(estimator="colmap"))


def test_poselibs_geometries_are_the_same_for_any_number_of_threads(scene, tmp_path):
    found = []
    for threads in (1, 3):
        path = tmp_path / f"{threads}.db"
        build_database(path, scene.cameras, scene.pairs, scene.features, scene.matches)
        options = dataclasses.replace(BY_POSELIB, num_threads=threads)
        verify_geometry(path, scene.pairs, options, scene.matches)
        with pycolmap.Database.open(path) as database:
            found.append(database.read_two_view_geometries())
    assert repr(found[0]) == repr(found[1])


def test_mapping_from_poselibs_geometries_recovers_every_camera(scene, tmp_path):
    path = tmp_path / "database.db"
    build_database(path, scene.cameras, scene.pairs, scene.features, scene.matches)
    verify_geometry(path, scene.pairs, BY_POSELIB, scene.matches)
    model = map_images(BY_POSELIB, path, tmp_path, tmp_path / "sparse", set(scene.cameras))
    assert model_statistics(model).registered_images == len(scene.cameras)
    assert position_errors(model, scene).max() < 1e-3


def position_errors(model, scene):
    poses, truth = pose_errors.model_poses(model), pose_errors.model_poses(scene.model)
    errors = pose_errors.pose_errors(poses, truth, pose_errors.align(poses, truth))
    return np.array([e[0] for e in errors.values()])


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_mapping_recovers_every_camera(scene, database, tmp_path, mapper):
    options = dataclasses.replace(OPTIONS, mapper=mapper)
    known = set(scene.cameras)
    model = map_images(options, database, tmp_path, tmp_path / "sparse", known)
    assert model_statistics(model).registered_images == len(scene.cameras)
    assert position_errors(model, scene).max() < 1e-3
    assert model_statistics(read_model(tmp_path / "sparse")) == model_statistics(model)


def test_a_growing_model_can_be_looked_at(scene, database, tmp_path):
    work = empty_folder(tmp_path / f"sparse{MAPPING}" / "0")
    task = mapping_task(OPTIONS, database, tmp_path, work, set(scene.cameras))
    (model,) = MAPPERS["incremental"](task).values()
    sizes = [read_model(path).num_reg_images() for path in Outputs(tmp_path).growing_models()]
    assert len(sizes) >= 2
    assert all(2 <= size <= model.num_reg_images() for size in sizes)


def test_known_intrinsics_stay(scene, database, tmp_path):
    model = map_images(OPTIONS, database, tmp_path, tmp_path / "sparse", set(scene.cameras))
    for image in model.images.values():
        assert image.camera.params.tolist() == scene.cameras[image.name].params.tolist()


def test_mapping_twice_gives_the_same_model(scene, database, tmp_path):
    first, second = (
        map_images(OPTIONS, database, tmp_path, tmp_path / name, set(scene.cameras))
        for name in ("a", "b")
    )
    poses0, poses1 = pose_errors.model_poses(first), pose_errors.model_poses(second)
    for name, pose in poses0.items():
        assert pose.matrix().tolist() == poses1[name].matrix().tolist()


def test_triangulation_keeps_poses_and_finds_the_points(scene, database, tmp_path):
    model = triangulate(OPTIONS, scene.model, database, tmp_path, tmp_path / "sparse")
    assert position_errors(model, scene).max() < 1e-9
    assert model.num_points3D() >= 0.95 * scene.model.num_points3D()
    truth = np.array([p.xyz for p in scene.model.points3D.values()])
    found = np.array([p.xyz for p in model.points3D.values()])
    distances = np.linalg.norm(found[:, None] - truth, axis=2).min(axis=1)
    assert np.percentile(distances, 95) < 1e-3


def test_triangulation_of_other_images_is_refused(scene, database, tmp_path):
    with pytest.raises(ModelError, match="none of the images"):
        triangulate(OPTIONS, pycolmap.Reconstruction(), database, tmp_path, tmp_path / "sparse")


def test_colmaps_verification_goes_on_where_it_stopped(scene, tmp_path, monkeypatch):
    path = tmp_path / "database.db"
    build_database(path, scene.cameras, scene.pairs, scene.features, scene.matches)
    verify_geometry(path, scene.pairs[:4], BY_COLMAP, scene.matches)
    asked = []
    original = pycolmap.verify_matches

    def listen(database, listed, options):
        asked.extend(read_pairs(listed))
        original(database, listed, options)

    monkeypatch.setattr(pycolmap, "verify_matches", listen)
    verify_geometry(path, scene.pairs, BY_COLMAP, scene.matches)
    assert asked == scene.pairs[4:]
    with pycolmap.Database.open(path) as database:
        assert database.num_verified_image_pairs() == len(scene.pairs)


def test_verification_goes_on_where_it_stopped(scene, tmp_path, monkeypatch):
    path = tmp_path / "database.db"
    build_database(path, scene.cameras, scene.pairs, scene.features, scene.matches)
    verify_geometry(path, scene.pairs[:4], BY_POSELIB, scene.matches)
    asked = []
    original = database_module.verify_pairs

    def listen(options, database, pairs, *others):
        asked.extend(pairs)
        return original(options, database, pairs, *others)

    monkeypatch.setattr(database_module, "verify_pairs", listen)
    verify_geometry(path, scene.pairs, BY_POSELIB, scene.matches)
    assert asked == scene.pairs[4:]
    with pycolmap.Database.open(path) as database:
        assert database.num_verified_image_pairs() == len(scene.pairs)


def test_matches_that_a_kill_took_from_the_database_are_verified(scene, database, tmp_path):
    path = tmp_path / "database.db"
    build_database(path, scene.cameras, scene.pairs, scene.features, scene.matches)
    verify_geometry(path, scene.pairs[:4], OPTIONS, scene.matches)
    with pycolmap.Database.open(path) as db:
        ids = {image.name: image.image_id for image in db.read_all_images()}
        for name0, name1 in scene.pairs[4:]:
            db.delete_matches(ids[name0], ids[name1])
    verify_geometry(path, scene.pairs, OPTIONS, scene.matches)
    with pycolmap.Database.open(path) as db, pycolmap.Database.open(database) as whole:
        assert db.num_matches() == whole.num_matches()
        assert db.num_inlier_matches() == whole.num_inlier_matches() > 0
        assert db.num_verified_image_pairs() == len(scene.pairs)


def test_matches_of_other_features_are_refused(scene, tmp_path):
    name0, name1 = scene.pairs[0]
    wrong = tmp_path / "matches.h5"
    with Staged(wrong, {}, "matches0") as staged:
        found = Matches(pairs=torch.tensor([[0, 10_000]]), scores=torch.ones(1))
        staged.add(features_h5.pair_key(name0, name1), features_h5.matches_record(found, 5))
    with pytest.raises(features_h5.StorageError, match="not matches of these features"):
        build_database(
            tmp_path / "database.db", scene.cameras, [(name0, name1)], scene.features, wrong
        )
    assert not (tmp_path / "database.db").exists()


@pytest.mark.parametrize("mapper", ["incremental", "global", "hierarchical"])
def test_no_model_is_one_sentence(scene, tmp_path, mapper):
    path = tmp_path / "database.db"
    build_database(path, scene.cameras, [], scene.features, scene.matches)
    options = dataclasses.replace(OPTIONS, mapper=mapper)
    with pytest.raises(ModelError, match="no model could be reconstructed from its 6 images; they"):
        map_images(options, path, tmp_path, tmp_path / "sparse")


def database_of_some(scene, path, names):
    """A verified database of some of the images."""
    cameras = {name: scene.cameras[name] for name in names}
    pairs = [pair for pair in scene.pairs if set(pair) <= set(names)]
    build_database(path, cameras, pairs, scene.features, scene.matches)
    verify_geometry(path, pairs, OPTIONS, scene.matches)
    return path


@pytest.mark.parametrize("mapper", ["incremental", "global", "hierarchical"])
def test_two_images_give_a_model(scene, tmp_path, mapper):
    names = sorted(scene.cameras)[::2][:2]
    path = database_of_some(scene, tmp_path / "database.db", names)
    options = dataclasses.replace(OPTIONS, mapper=mapper)
    model = map_images(options, path, tmp_path, tmp_path / "sparse", set(names))
    assert model.num_reg_images() == 2
    assert model.num_points3D() > 100
    (tmp_path / "known").mkdir()
    known = triangulate(OPTIONS, scene.model, path, tmp_path, tmp_path / "known" / "sparse")
    assert known.num_points3D() > 100
    assert model_statistics(known).mean_reprojection_error < 0.1


def test_one_image_is_said_to_be_too_few(scene, tmp_path):
    path = database_of_some(scene, tmp_path / "database.db", sorted(scene.cameras)[:1])
    with pytest.raises(ModelError, match="from its 1 images; a model needs 2"):
        map_images(OPTIONS, path, tmp_path, tmp_path / "sparse")


def test_images_of_two_places_give_two_models(tmp_path):
    scene = synthesize(tmp_path, num_images=8)
    names = sorted(scene.cameras)
    pairs = [p for p in scene.pairs if (p[0] in names[:5]) == (p[1] in names[:5])]
    path = tmp_path / "database.db"
    build_database(path, scene.cameras, pairs, scene.features, scene.matches)
    verify_geometry(path, pairs, OPTIONS, scene.matches)
    model = map_images(OPTIONS, path, tmp_path, tmp_path / "sparse", set(names))
    assert sorted(pose_errors.model_poses(model)) == names[:5]
    (folder,), (other,) = zip(*other_models(tmp_path / "sparse").items(), strict=True)
    assert folder == "sparse/1"
    assert sorted(pose_errors.model_poses(other)) == names[5:]
    task = mapping_task(OPTIONS, path, tmp_path, tmp_path / "work", set(names))
    readjust_model(task, model, tmp_path / "readjusted", [other])
    assert list(other_models(tmp_path / "readjusted")) == ["readjusted/1"]


def test_a_model_that_readjusting_takes_apart_stays_as_it_was(scene, database, tmp_path, caplog):
    path = Path(shutil.copyfile(database, tmp_path / "few.db"))
    with pycolmap.Database.open(path) as db:
        for pair_id, _ in zip(*db.read_two_view_geometries(), strict=True):
            first, second = pycolmap.pair_id_to_image_pair(pair_id)
            if second > 2:
                db.delete_inlier_matches(first, second)
    whole, few = (
        mapping_task(OPTIONS, matches, tmp_path, tmp_path / "work", frozenset())
        for matches in (database, path)
    )
    readjust_model(whole, scene.model, tmp_path / "whole")
    assert "doubtful" not in caplog.text
    readjust_model(few, scene.model, tmp_path / "few")
    assert "it stays as it was, and is doubtful" in caplog.text
    before, found = scene.model.num_points3D(), read_model(tmp_path / "few").num_points3D()
    assert found == before


@pytest.mark.parametrize("place", [".", "0", "sparse", "sparse/0"])
def test_a_model_is_found_in_a_project_of_colmaps(scene, tmp_path, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    scene.model.write(tmp_path / place)
    assert sparse_folder(tmp_path) == tmp_path / place


def test_a_model_of_almost_nothing_is_none(scene):
    model = pycolmap.Reconstruction(scene.model)
    assert is_sound(model, OPTIONS)
    for point_id in sorted(model.point3D_ids())[10:]:
        model.delete_point3D(point_id)
    assert not is_sound(model, OPTIONS)


def focal_lengths(path):
    with pycolmap.Database.open(path) as database:
        return [camera.mean_focal_length() for camera in database.read_all_cameras()]


def test_global_mapping_of_unknown_cameras_repeats_itself_and_keeps_the_database(scene, tmp_path):
    path = tmp_path / "database.db"
    cameras = {name: pycolmap.Camera(camera.todict()) for name, camera in scene.cameras.items()}
    for camera in cameras.values():
        camera.has_prior_focal_length = False
    build_database(path, cameras, scene.pairs, scene.features, scene.matches)
    verify_geometry(path, scene.pairs, OPTIONS, scene.matches)
    before = focal_lengths(path)
    options = dataclasses.replace(OPTIONS, mapper="global")
    first = map_images(options, path, tmp_path, tmp_path / "first")
    assert focal_lengths(path) == before
    again = map_images(options, path, tmp_path, tmp_path / "again")
    assert model_statistics(first) == model_statistics(again)


@pytest.mark.parametrize("damage", [b"", b"no database" * 1000, "half"])
def test_a_damaged_database_is_named(database, tmp_path, damage):
    path = tmp_path / "database.db"
    data = database.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == "half" else damage)
    with pytest.raises(ModelError, match=r"database\.db: is damaged"):
        check_database(path)


def test_an_unknown_camera_model_is_named_before_the_work(tmp_path):
    conf = Reconstruct(reconstruction=ReconstructionOptions(camera_model="ROUND"))
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"camera_model 'ROUND' is not of .*PINHOLE"):
        reconstruct(conf, tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "name", ["cameras.bin", "frames.bin", "images.bin", "points3D.bin", "rigs.bin"]
)
@pytest.mark.parametrize("size", [0, 8, -5, None])
def test_a_cut_or_missing_model_file_is_named(scene, tmp_path, name, size):
    scene.model.write(tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if size is not None:
        (tmp_path / name).write_bytes(data[:size])
    with pytest.raises(ModelError, match=rf"{name}: (is damaged|there is no such file)"):
        read_model(tmp_path)


def test_a_model_in_text_reads_too(scene, tmp_path):
    scene.model.write_text(tmp_path)
    assert read_model(tmp_path).num_reg_images() == len(scene.cameras)
    (tmp_path / "images.txt").write_text((tmp_path / "images.txt").read_text()[:1000])
    with pytest.raises(ModelError, match=r"images\.txt, line 6: .* it is cut short"):
        read_model(tmp_path)


def test_models_of_rigs_with_several_cameras_read_too(tmp_path):
    options = pycolmap.SyntheticDatasetOptions(num_rigs=2, num_cameras_per_rig=3, num_points3D=20)
    pycolmap.synthesize_dataset(options).write(tmp_path)
    assert read_model(tmp_path).num_cameras() == 6


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(ModelError, match="give the folder of a COLMAP model"):
        read_model(tmp_path)


def test_mapping_begins_again_from_other_focal_lengths(scene, database, tmp_path, monkeypatch):
    began, mapper = [], mapping.MAPPERS["incremental"]

    def fails_from_the_guess(task):
        with pycolmap.Database.open(task.database) as db:
            began.append(db.read_all_cameras()[0].focal_length_x / 1280)
        return mapper(task) if began[-1] < 0.9 else {}

    monkeypatch.setitem(mapping.MAPPERS, "incremental", fails_from_the_guess)
    options = dataclasses.replace(OPTIONS, attempts=1, focal_starts=(1.0, 1.2, 0.8, 2.0))
    model = map_images(options, database, tmp_path, tmp_path / "sparse")
    assert began == pytest.approx([1.0, 1.2, 0.8])
    assert model_statistics(model).registered_images == len(scene.cameras)
    with pytest.raises(ModelError):  # known focal lengths have one start
        map_images(options, database, tmp_path, tmp_path / "sparse", set(scene.cameras))
    assert began[3:] == pytest.approx([1.0])


def test_an_image_left_out_finds_its_place_in_the_readjusted_model(
    scene, database, tmp_path, monkeypatch
):
    mapper = mapping.MAPPERS["incremental"]

    def leaves_one(task):
        models = mapper(task)
        for model in models.values():
            image = model.images[max(model.reg_image_ids())]
            pycolmap.ObservationManager(model).deregister_frame(image.frame_id)
        return models

    monkeypatch.setitem(mapping.MAPPERS, "incremental", leaves_one)
    found = []
    once = dataclasses.replace(OPTIONS, attempts=1, focal_starts=(1.0,))
    plain = dataclasses.replace(once, second_look=False)
    all_known = frozenset(scene.cameras)  # these mislead no mapper
    for known, options in ((frozenset(), once), (all_known, once), (frozenset(), plain)):
        model = map_images(options, database, tmp_path, tmp_path / "sparse", known)
        found.append(model_statistics(model).registered_images)
    assert found == [len(scene.cameras), len(scene.cameras) - 1, len(scene.cameras) - 1]


def test_a_model_that_all_points_leave_is_an_error(scene, database, tmp_path, monkeypatch):
    monkeypatch.setattr(mapping, "drop_absurd", lambda model: _without_points(model))
    with pytest.raises(ModelError, match="no point of its model agrees"):
        map_images(OPTIONS, database, tmp_path, tmp_path / "sparse", frozenset(scene.cameras))
    assert not (tmp_path / "sparse").exists()


def _without_points(model):
    for point in list(model.point3D_ids()):
        model.delete_point3D(point)
    return 1
