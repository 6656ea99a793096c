"""Pairs that lead astray are found by the triplets that they are in."""

import numpy as np
import pytest
from synthetic import synthesize

from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.adjustment.triplets import contradicted_pairs, without_pairs
from d2_hloc.sfm.options import ReconstructionOptions


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    scene = synthesize(tmp_path_factory.mktemp("triplets"), num_images=5)
    return scene.verified_database(ReconstructionOptions())


def turn_one_pair(path, degrees):
    """Turn the relative rotation of the database's first pair; their names."""
    with pycolmap.Database.open(path) as db:
        ids = sorted(image.image_id for image in db.read_all_images())[:2]
        names = {image.image_id: image.name for image in db.read_all_images()}
        geometry = db.read_two_view_geometry(*ids)
        turn = pycolmap.Rotation3d(np.radians(degrees) * np.array([0.0, 1.0, 0.0]))
        pose = geometry.cam2_from_cam1
        geometry.cam2_from_cam1 = pycolmap.Rigid3d(turn * pose.rotation, pose.translation)
        db.delete_two_view_geometry(*ids)
        db.write_two_view_geometry(*ids, geometry)
    return names[ids[0]], names[ids[1]]


def test_a_pair_that_no_triplet_agrees_with_is_found_and_left_out(database, tmp_path):
    assert contradicted_pairs(database) == []
    path = without_pairs(database, [], tmp_path / "turned.db")
    pair = turn_one_pair(path, 70.0)
    (found,) = contradicted_pairs(path)
    assert sorted(found.pair) == sorted(pair)
    assert found.triplets == 3
    assert found.inliers > 100
    assert found.error == pytest.approx(70.0, abs=0.5)
    left = without_pairs(path, [found.pair], tmp_path / "left.db")
    with pycolmap.Database.open(left) as db:
        assert db.num_verified_image_pairs() == 9
    assert contradicted_pairs(left) == []


def test_a_small_turn_and_few_triplets_say_nothing(database, tmp_path):
    path = without_pairs(database, [], tmp_path / "turned.db")
    turn_one_pair(path, 30.0)
    assert contradicted_pairs(path) == []
    turn_one_pair(path, 60.0)
    assert contradicted_pairs(path)
    assert contradicted_pairs(path, min_triplets=4) == []
