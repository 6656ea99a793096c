"""Which images are matched with which, and what cannot be paired, said before the work."""

from pathlib import Path

import numpy as np
import pytest

from d2_hloc.files.colmap import pycolmap
from d2_hloc.matching import choose_pairs
from d2_hloc.matching.choose_pairs import Reference
from d2_hloc.matching.options import PairsOptions
from d2_hloc.sfm.pair_reference import read_reference
from d2_hloc.sfm.pose_errors import model_poses
from d2_hloc.sfm.poses_file import write_poses


def test_many_images_without_global_descriptors_are_refused_at_once():
    options = PairsOptions(max_exhaustive=10)
    choose_pairs.check_pairing(options, "sift", 10)
    choose_pairs.check_pairing(options, "d2net", 11)
    with pytest.raises(ValueError, match="11 images are paired by retrieval, and sift has no"):
        choose_pairs.check_pairing(options, "sift", 11)
    with pytest.raises(ValueError, match="retrieval, and sift has no global descriptors"):
        choose_pairs.check_pairing(PairsOptions(method="retrieval"), "sift", 3)
    choose_pairs.check_pairing(PairsOptions(method="exhaustive"), "sift", 1000)


def test_a_missing_list_is_named_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt: cannot be read"):
        choose_pairs.check_pairing(PairsOptions(file=tmp_path / "none.txt"), "d2net", 3)


@pytest.mark.parametrize("name", ["count", "max_exhaustive"])
def test_counts_are_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be from .* not 0"):
        PairsOptions(**{name: 0})


NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def model():
    """Four cameras in a row; the first two share a point, the last two share another."""
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_PINHOLE", 500, 640, 480)
    model.add_camera_with_trivial_rig(camera)
    for k, name in enumerate(NAMES, 1):
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([-(k**2), 0.0, 0]))
        image = pycolmap.Image(name=name, camera_id=1, image_id=k, keypoints=np.ones((1, 2)))
        model.add_image_with_trivial_frame(image, pose)
    for pair in ((1, 2), (3, 4)):
        track = pycolmap.Track()
        for image_id in pair:
            track.add_element(image_id, 0)
        model.add_point3D(np.array([0.0, 0, 5]), track, np.zeros(3, np.uint8))
    return model


def chosen(method, model, names=NAMES, poses=None, **options):
    options = PairsOptions(method=method, **options)
    poses = model_poses(model) if poses is None else poses
    found = choose_pairs.of_images(
        options, names, Path("none.h5"), Reference(poses=poses, model=model)
    )
    return {frozenset(pair) for pair in found}


def test_pairs_by_covisibility_share_points(model):
    assert chosen("covisibility", model) == {frozenset("ab"), frozenset("cd")}


def test_pairs_by_poses_are_the_nearest(model):
    nearest = {frozenset("ab"), frozenset("bc"), frozenset("cd")}
    assert chosen("poses", model, count=1) == nearest
    assert chosen("poses", None, poses=model_poses(model), count=1) == nearest
    assert len(chosen("poses", model, count=3)) == 6


@pytest.mark.parametrize("method", ["covisibility", "poses"])
def test_images_that_have_no_features_or_no_pose_are_in_no_pair(model, method, caplog):
    found = chosen(method, model, ["a", "b", "d", "new"], count=1)
    assert frozenset("ab") in found
    assert {"c", "new"}.isdisjoint(frozenset().union(*found))
    assert "1 of 4 images are paired with none" in caplog.text
    with pytest.raises(ValueError, match=f"no two of the 1 images are a pair by {method}"):
        chosen(method, model, ["new"])


def test_what_pairs_are_chosen_by_is_asked_for(model, tmp_path):
    assert read_reference(PairsOptions(), tmp_path) is None
    with pytest.raises(ValueError, match=r"by covisibility need a model of the images; name it by"):
        read_reference(PairsOptions(method="covisibility"), tmp_path)
    with pytest.raises(ValueError, match=r"need a model of the images, or a file of their poses"):
        read_reference(PairsOptions(method="poses"), tmp_path)
    with pytest.raises(ValueError, match=r"nowhere: cannot be read"):
        read_reference(PairsOptions(method="poses", reference=tmp_path / "nowhere"), tmp_path)
    for point_id in list(model.points3D):
        model.delete_point3D(point_id)
    with pytest.raises(ValueError, match="need a model with points; take those by poses"):
        read_reference(PairsOptions(method="covisibility"), tmp_path, model)


@pytest.mark.parametrize("form", ["model", "file"])
def test_poses_come_from_a_model_or_a_file(model, tmp_path, form):
    reference = tmp_path / "given"
    if form == "file":
        write_poses(reference, model_poses(model))
    else:
        reference.mkdir()
        model.write(reference)
    found = read_reference(PairsOptions(method="poses", reference=reference), tmp_path)
    assert sorted(found.poses) == NAMES
    np.testing.assert_allclose(found.poses["c"].translation, [-9, 0, 0])
