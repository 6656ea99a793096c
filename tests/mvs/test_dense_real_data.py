"""Dense stereo on real photographs with ground truth; it takes minutes."""

import pytest

from d2_hloc.app import cli
from d2_hloc.files.colmap import read_model
from d2_hloc.mvs import reconstruct
from d2_hloc.sfm import pose_errors
from d2_hloc.sfm.poses_file import read_poses

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fountain(shared, tmp_path_factory):
    """The folder of photographs and that of their model."""
    scene = shared / "data" / "lfe-mini" / "Fountain"
    output = tmp_path_factory.mktemp("fountain")
    options = ["--feature", "sift", "--resize-max", "1024"]
    options += ["--intrinsics", str(scene / "ground_truth.txt")]
    assert cli.main(["reconstruct", str(scene / "images"), str(output), *options]) == 0
    return scene, output / "sparse"


def metres(scene, model):
    """How many metres a unit of the model is."""
    truth = read_poses(scene / "ground_truth.txt")
    return pose_errors.align(pose_errors.model_poses(model), truth).scale


def test_fountain_gets_its_surface(fountain, tmp_path):
    scene, model = fountain
    options = reconstruct.DenseOptions(backend="torch", max_image_size=768)
    found = reconstruct.reconstruct_dense(options, model, scene / "images", tmp_path / "dense")
    assert found.depth_maps == 11
    assert found.points >= 150_000
    assert found.share_within_1_percent >= 0.97
    assert found.median_surface_distance * metres(scene, read_model(model)) <= 0.005
