"""The command that verifies hloc's matches, without hloc."""

import pytest
from synthetic import synthesize

from d2_hloc.files.colmap import pycolmap
from d2_hloc.hloc.__main__ import main
from d2_hloc.hloc.geometric_verification import geometric_verification
from d2_hloc.matching.pairs import write_pairs
from d2_hloc.sfm.database import build_database


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("hloc"), num_images=3)


@pytest.fixture
def arguments(scene, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.txt", scene.pairs)
    files = {
        "--database": tmp_path / "database.db",
        "--pairs": pairs,
        "--features": scene.features,
        "--matches": scene.matches,
    }
    return [str(part) for argument in files.items() for part in argument]


@pytest.mark.parametrize("estimator", ["poselib", "colmap"])
def test_pairs_of_a_database_get_their_geometry(scene, arguments, tmp_path, estimator):
    path = tmp_path / "database.db"
    build_database(path, scene.cameras, scene.pairs, scene.features, scene.matches)
    found = geometric_verification([*arguments, "--estimator", estimator])
    assert found.pairs == 3
    with pycolmap.Database.open(path) as db:
        assert found.inliers > 0.95 * db.num_matches()
    assert geometric_verification(arguments) == found  # they are left alone


def test_a_missing_database_needs_images(arguments, capsys):
    assert main(["hloc.geometric_verification", *arguments]) == 1
    assert "--image_dir" in capsys.readouterr().err
