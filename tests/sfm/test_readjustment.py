"""Models that began with wrong focal lengths come right, and lead to the matches that they miss."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from d2_hloc.core.pixels import from_colmap
from d2_hloc.core.structs import Features
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import open_database, pycolmap
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.sfm import mappers, pose_errors
from d2_hloc.sfm.adjustment.outliers import adjust, is_wild, reprojection_errors
from d2_hloc.sfm.adjustment.readjustment import RULE, RULE_OF_CELLS, readjust
from d2_hloc.sfm.mappers import mapping_task, readjustment_task
from d2_hloc.sfm.options import ReconstructionOptions
from d2_hloc.sfm.second_look import matches_by_model, second_database
from d2_hloc.sfm.triangulation import triangulate

OPTIONS = ReconstructionOptions()
FOCAL = 1280.0


def test_wrong_focal_lengths_come_right(scene, database, tmp_path):
    model = triangulate(OPTIONS, scene.model, database, tmp_path, tmp_path / "sparse")
    for k, camera in enumerate(model.cameras.values()):
        factor = 1.03 if k % 2 else 0.98
        camera.params = [FOCAL * factor, FOCAL * factor, *camera.params[2:]]
    assert np.median(reprojection_errors(model)) > 1
    task = mapping_task(OPTIONS, database, tmp_path, tmp_path / "work", frozenset())
    readjusted = readjust(model, readjustment_task(task, tmp_path / "readjusting"))
    assert [c.params[0] for c in readjusted.cameras.values()] == pytest.approx(
        [FOCAL] * 6, rel=1e-3
    )
    poses, truth = pose_errors.model_poses(readjusted), pose_errors.model_poses(scene.model)
    errors = pose_errors.pose_errors(poses, truth, pose_errors.align(poses, truth))
    assert max(e[0] for e in errors.values()) < 1e-2


@pytest.mark.parametrize("is_known", [True, False])
def test_keypoints_have_weights_where_all_cameras_are_known(
    scene, database, tmp_path, monkeypatch, is_known
):
    deviations = {"view": np.ones(3)}
    monkeypatch.setattr(mappers, "read_deviations", lambda path: deviations)
    known = set(scene.cameras) if is_known else set(sorted(scene.cameras)[1:])
    given = OPTIONS, database, tmp_path, tmp_path / "work", known, tmp_path / "refined.h5"
    assert mapping_task(*given).deviations == (deviations if is_known else None)


def test_observations_of_cells_a_few_pixels_off_stay(scene, database, tmp_path):
    path = Path(shutil.copyfile(database, tmp_path / "database.db"))
    rng, shifted = np.random.default_rng(0), 0
    with open_database(path) as db:
        for image in db.read_all_images():
            xy = db.read_keypoints(image.image_id)
            xy[:, :2] += rng.normal(0, 0.3, (len(xy), 2))
            is_off = rng.random(len(xy)) < 0.1
            xy[is_off, 0] += 2.5
            db.update_keypoints(image.image_id, xy.astype(np.float32))
            shifted += is_off.sum()
    model = triangulate(OPTIONS, scene.model, path, tmp_path, tmp_path / "sparse")
    known = {image.name for image in model.images.values()}
    task = mapping_task(OPTIONS, path, tmp_path, tmp_path / "work", known)
    narrow, wide = (
        readjust(
            pycolmap.Reconstruction(model), readjustment_task(task, tmp_path / "readjusting", rule)
        )
        for rule in (RULE, RULE_OF_CELLS)
    )
    gained = wide.compute_num_observations() - narrow.compute_num_observations()
    assert gained > shifted / 2


def test_a_camera_out_of_bounds_keeps_its_intrinsics(scene):
    model = pycolmap.Reconstruction(scene.model)
    first, *others = sorted(model.cameras)
    camera = model.cameras[first]
    camera.params = [100 * FOCAL, 100 * FOCAL, *camera.params[2:]]
    assert is_wild(camera)
    assert not is_wild(model.cameras[others[0]])
    before = camera.params.tolist()
    adjust(model, frozenset(), 1, loss_scale=1.0)
    assert not any(is_wild(model.cameras[i]) for i in others)
    assert model.cameras[first].params.tolist() == before or not is_wild(model.cameras[first])


def test_a_model_leads_to_the_matches_of_its_points(scene, database, tmp_path):
    rng = np.random.default_rng(0)
    looks = rng.normal(size=(max(ids.max() for ids in scene.ids.values()) + 1, 16))
    features = tmp_path / "features.h5"
    with Staged(features, {"synthetic": True}, "keypoints") as staged:
        for image in scene.model.images.values():
            ids = scene.ids[image.name]
            descriptors = torch.from_numpy(looks[ids]).float()
            found = Features(
                keypoints=torch.from_numpy(from_colmap(np.array([p.xy for p in image.points2D]))),
                scores=torch.ones(len(ids)),
                descriptors=torch.nn.functional.normalize(descriptors, dim=1),
                scales=torch.ones(len(ids)),
            )
            record = features_h5.features_record(found, (1024, 768), 1.0, "float32")
            staged.add(image.name, record)
    pairs = [*scene.pairs[:5], ("not there", scene.pairs[0][0])]
    matches = matches_by_model(OPTIONS.verification, scene.model, features, pairs)
    assert matches.keys() == set(scene.pairs[:5])
    for (name0, name1), found in matches.items():
        index0, index1 = found.pairs.T
        assert np.array_equal(scene.ids[name0][index0], scene.ids[name1][index1])
        common = np.intersect1d(scene.ids[name0], scene.ids[name1])
        assert len(found.pairs) > 0.9 * (common >= 0).sum()
    path = tmp_path / "again.db"
    second_database(database, features, matches, scene.model, path, fewest=15)
    with pycolmap.Database.open(path) as db:
        assert db.num_verified_image_pairs() == 5
        assert db.num_inlier_matches() == sum(len(m.pairs) for m in matches.values())
