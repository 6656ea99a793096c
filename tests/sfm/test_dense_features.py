"""Models of dense features: of cells that were moved to where they are seen, and agree."""

import json
import shutil

import h5py
import numpy as np
import pytest
from hdf5 import contents
from killing import run_until_killed

from d2_hloc.app import cli
from d2_hloc.features.extraction import extract
from d2_hloc.features.names import reach_of
from d2_hloc.files.merging import merge
from d2_hloc.files.shards import Shard
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.matching.pairs import read_pairs
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.refinement.patches import Outcome
from d2_hloc.sfm.localize import extraction_of
from d2_hloc.sfm.moved_matches import AgreementOptions, RefinedKeypoints

CLI = "-m", "d2_hloc.app.cli"


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


def test_interruptions_in_all_steps_change_nothing(small_run, dense_run, tmp_path, monkeypatch):
    add, added, stops = Staged.add, [], [3, 5, 4, 8, 4]

    def until_stopped(staged, key, record):
        added.append(staged.path.name)
        if len(added) == stops[0]:
            raise KeyboardInterrupt
        return add(staged, key, record)

    stopped = set()
    while stops:
        added.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Staged, "add", until_stopped)
            assert cli.main(arguments(small_run, tmp_path)) != 0
        stopped.add(added[-1][:10])
        del stops[0]
    assert {"features.h", "matches.h5"} < stopped
    assert any(name.startswith(("refined", "matches-mo")) for name in stopped)
    assert cli.main(arguments(small_run, tmp_path)) == 0
    for name in ("features.h5", "matches.h5", "refined.h5", "matches-moved.h5"):
        assert contents(tmp_path / name) == contents(dense_run / name)
    model = "sparse/points3D.bin"
    assert (tmp_path / model).read_bytes() == (dense_run / model).read_bytes()


def test_a_process_killed_while_it_refines_and_covers_ends_in_the_same_model(
    small_run, dense_run, tmp_path
):
    output = tmp_path / "out"
    later = shutil.ignore_patterns("sparse*", "*.db", "refined*", "matches-moved.h5")
    shutil.copytree(dense_run, output, ignore=later)
    record = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps(record | {"done": {}}))
    given = arguments(small_run, output)
    killed = [run_until_killed([*CLI, *given], 0.3, stage) for stage in (b"refine", b"cover")]
    assert any(killed)
    assert cli.main(given) == 0
    for name in ("refined.h5", "matches-moved.h5", "refined-last.h5"):
        assert contents(output / name) == contents(dense_run / name)
    model = "sparse/points3D.bin"
    assert (output / model).read_bytes() == (dense_run / model).read_bytes()
    assert not list(output.glob("*.parts"))


def test_shards_make_the_same_features_and_matches(small_run, dense_run, tmp_path):
    features, matches = tmp_path / "features.h5", tmp_path / "matches.h5"
    options = extraction_of(dense_run / "features.h5")
    for shard in Shard.all(2):
        extract(options, small_run.images, features, shard=shard)
    merge(features)
    assert contents(features) == contents(dense_run / "features.h5")
    for shard in Shard.all(3):
        grown = MatchingOptions(matcher="grown")
        match(grown, read_pairs(dense_run / "pairs.txt"), features, matches, shard=shard)
    merge(matches)
    assert contents(matches) == contents(dense_run / "matches.h5")


@pytest.mark.slow
def test_guessed_cameras_have_a_second_look_too(small_run, dense_run, tmp_path):
    given = [a for a in arguments(small_run, tmp_path) if a not in small_run.intrinsics]
    assert cli.main(given) == 0
    assert (tmp_path / "refined-again.h5").is_file()
    found, known = (
        json.loads((folder / "run.json").read_text())["scores"] for folder in (tmp_path, dense_run)
    )
    assert found["registered_images"] == known["registered_images"]
    assert found["points"] > known["points"] / 2


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
