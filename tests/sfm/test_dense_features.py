"""Models of dense features: of cells that were moved to where they are seen, and agree."""

import json

import h5py
import numpy as np
import pytest

from d2_hloc.app import cli
from d2_hloc.features.names import reach_of
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.refinement.patches import Outcome
from d2_hloc.sfm.moved_matches import AgreementOptions, RefinedKeypoints


@pytest.fixture(scope="module")
def dense_run(small_run, tmp_path_factory):
    """The small scene's four views, by dense features."""
    output = tmp_path_factory.mktemp("dense")
    assert cli.main(arguments(small_run, output)) == 0
    return output


def arguments(small_run, output):
    return [*small_run.arguments(output), "--feature", "d2net-dense", "--refinement", "on"]


def test_a_model_has_many_times_the_points(small_run, dense_run):
    sparse, dense = (
        json.loads((folder / "run.json").read_text())["scores"]
        for folder in (small_run.output, dense_run)
    )
    assert dense["registered_images"] == sparse["registered_images"]
    assert dense["points"] > 2 * sparse["points"]
    assert dense["mean_reprojection_error"] < 0.5


def test_only_keypoints_that_were_moved_or_moved_to_are_matched(dense_run):
    kept = 0
    with (
        h5py.File(dense_run / "matches-moved.h5") as matches,
        h5py.File(dense_run / "refined.h5") as refined,
    ):
        names = [n for n in refined if "outcomes" in refined[n]]
        for name0 in names:
            for name1 in names:
                if name0 in matches and name1 in matches[name0]:
                    matches0 = matches[name0][name1]["matches0"][()]
                    index0 = np.flatnonzero(matches0 >= 0)
                    outcomes = (
                        refined[name0]["outcomes"][()][index0],
                        refined[name1]["outcomes"][()][matches0[index0]],
                    )
                    for found in outcomes:
                        assert not np.isin(found, [Outcome.BORDER, Outcome.FLAT]).any()
                    kept += len(index0)
    assert kept > 500


def test_the_same_command_again_changes_nothing(small_run, dense_run):
    before = (dense_run / "sparse" / "points3D.bin").read_bytes()
    assert cli.main(arguments(small_run, dense_run)) == 0
    assert (dense_run / "sparse" / "points3D.bin").read_bytes() == before


def test_a_query_is_placed(small_run, dense_run, tmp_path):
    places = [str(p) for p in (dense_run, small_run.queries, tmp_path)]
    known = [*small_run.intrinsics, "--refinement", "on"]
    assert cli.main(["localize", *places, *known]) == 0
    line = (tmp_path / "poses.txt").read_text().split()
    assert len(line) == 8
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["counts"]["localized"] == 1


def test_windows_reach_over_a_cell():
    assert RefinementOptions().reaching(reach_of("d2net")) == RefinementOptions()
    wide = RefinementOptions().reaching(reach_of("d2net-dense"))
    assert (wide.coarse_window, wide.coarse_patch) == (5, 4)
    assert RefinementOptions(coarse_window=7).reaching(8.0).coarse_window == 7


def test_matches_have_to_agree_with_those_around_them():
    rng = np.random.default_rng(0)
    xy0 = rng.uniform(0, 400, (600, 2))
    right = xy0 @ np.array([[1.02, 0.1], [-0.1, 1.05]]) + [30, 5]
    is_wrong = rng.random(600) < 0.3
    xy1 = np.where(is_wrong[:, None], right + rng.uniform(-10, 10, (600, 2)), right)
    outcomes = np.zeros(600, np.int8)
    outcomes[5] = Outcome.FLAT
    found = RefinedKeypoints(
        keypoints={"a": xy0 * 2, "b": xy1 * 2},
        outcomes={"a": outcomes, "b": np.full(600, -1, np.int8)},
        enlargements={"a": 2.0, "b": 2.0},
        window=20.0,
    )
    pairs = np.stack([np.arange(600)] * 2, axis=1)
    keep = found.agree(AgreementOptions(), ("a", "b"), pairs)
    assert keep[~is_wrong].mean() > 0.95
    assert keep[np.linalg.norm(xy1 - right, axis=1) > 5].mean() < 0.2
    assert found.is_unmoved("a", np.array([4, 5])).tolist() == [False, True]
