"""The report of a reconstruction, from a model whose parts are known."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from synthetic import synthesize

from d2_hloc.features.extracted import Extracted
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import open_database, pycolmap
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching.match_pairs import MatchedPairs
from d2_hloc.refinement.tracks import RefinedTracks
from d2_hloc.reports.keypoints import (
    Fate,
    counted_fates,
    keypoint_fates,
    keypoints_with_verified_match,
)
from d2_hloc.reports.model import (
    add_errors,
    add_failures,
    add_model,
    contradicted_rows,
    extreme_pairs,
    failure_rows,
    model_rows,
    score_rows,
)
from d2_hloc.reports.page import Report
from d2_hloc.reports.pair_graph import link_matrix
from d2_hloc.reports.residuals import (
    Residuals,
    image_residuals,
    residual_figure,
    residual_map,
)
from d2_hloc.sfm.database import build_database, verified_links, verify_geometry
from d2_hloc.sfm.matched import Matched
from d2_hloc.sfm.options import Reconstruct, ReconstructionOptions
from d2_hloc.sfm.outcome.statistics import model_statistics
from d2_hloc.sfm.outcome.unplaced import reason_left_out, unplaced_images
from d2_hloc.sfm.pose_errors import PoseError, summarize_poses
from d2_hloc.sfm.prepared_database import VerifiedDatabase
from d2_hloc.sfm.reconstruct import ModelRun

HOSTILE = "<script>alert(1)</script>.jpg"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> ModelRun:
    """Six images; the first is in no model, for all its verified matches."""
    folder = tmp_path_factory.mktemp("model")
    scene = synthesize(folder)
    path = folder / "database.db"
    build_database(path, scene.cameras, scene.pairs, scene.features, scene.matches)
    verify_geometry(path, scene.pairs, ReconstructionOptions(), scene.matches)
    with open_database(path) as db:
        pairs, matches = db.num_verified_image_pairs(), db.num_inlier_matches()
    model = pycolmap.Reconstruction(scene.model)
    first = min(model.images.values(), key=lambda image: image.name)
    model.deregister_frame(first.frame_id)
    matched = Matched(
        conf=Reconstruct(),
        images=folder / "images",
        record=RunRecord(folder / "run", {}),
        features=replace(Extracted.read(scene.features), failures={HOSTILE: "is cut"}),
        matches=MatchedPairs.read(scene.matches, scene.pairs),
        cameras=scene.cameras,
    )
    refined = RefinedTracks(path=scene.features, outcomes={"moved": 7, "flat": 2})
    database = VerifiedDatabase(
        path=path, matches=matches, inlier_pairs=pairs, inlier_matches=matches, refined=refined
    )
    return ModelRun(
        matched=matched,
        database=database,
        model=model,
        statistics=model_statistics(model),
        unplaced=unplaced_images(matched, path, model, {}),
    )


def test_the_rows_are_the_runs_own_numbers(run):
    rows = dict(
        model_rows(run, summarize_poses({"a": PoseError(0.5, 3.0), "b": PoseError(np.inf, np.inf)}))
    )
    assert rows["registered images"] == "5 of 6"
    assert rows["observations"] == run.model.compute_num_observations()
    assert rows["matched pairs"] == rows["verified pairs"] == 15
    assert rows["keypoints moved in refinement"] == 7
    assert rows["mean camera-centre error, mm"] == 500
    assert rows["median rotation error, deg"] == 3
    assert rows["images that could not be used"] == 1
    assert "pairs skipped" not in rows


def test_scores_of_no_pose_and_failures_of_none_have_no_rows():
    assert score_rows(None) == []
    assert score_rows(summarize_poses({"a": PoseError(np.inf, np.inf)})) == []
    assert failure_rows({}, {}) == []


def test_an_image_without_a_pose_is_named_with_the_reason(run):
    (image,) = run.unplaced
    assert image.name == min(run.matched.features.names)
    assert (image.pairs, image.verified_pairs) == (5, 5)
    assert image.keypoints > 100
    expected = f"its {image.verified_matches} verified matches with 5 images of the model were"
    assert image.reason.startswith(expected)


@pytest.mark.parametrize(
    ("keypoints", "pairs", "links", "reason"),
    [
        (0, 3, {}, "it has no keypoints"),
        (9, 0, {}, "it is in no pair"),
        (9, 3, {}, "none of its pairs was verified"),
        (9, 3, {"b": 5}, "with images that have no pose either"),
        (9, 3, {"a": 4, "b": 5}, "its 4 verified matches with 1 image of the model"),
        (9, 3, {"a": 4, "c": 5}, "its 9 verified matches with 2 images of the model"),
    ],
)
def test_the_reason_is_the_first_step_that_was_not_passed(keypoints, pairs, links, reason):
    assert reason in reason_left_out(keypoints, pairs, links, {"a", "c"})


def test_the_pair_graph_is_that_of_the_database(run):
    names = run.matched.features.names
    matrix = link_matrix(verified_links(run.database.path), names)
    assert matrix.sum() == 2 * run.database.inlier_matches
    np.testing.assert_array_equal(matrix, matrix.T)
    assert not matrix.diagonal().any()


def test_the_pairs_that_are_drawn_are_those_of_most_and_fewest_matches(run):
    found = extreme_pairs(run.database.path)
    counts = [len(index) for _, index in found]
    assert len(counts) == 3
    assert counts == sorted(counts, reverse=True)


def test_the_report_names_what_is_missing_and_escapes_it(run):
    report = Report("t")
    add_model(report, run)
    html = report.html()
    left_out = "Images without a pose or points"
    headings = "Numbers", left_out, "Pairs", "Reprojection errors", "Skipped"
    for heading in (*headings, "What became of the keypoints"):
        assert f"<h2>{heading}</h2>" in html
    assert html.count('aria-label="Reprojection errors"') == 2  # how many, and where
    assert html.count("<img ") == 3 + 6  # drawn though the photographs are gone
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>alert" not in html


def test_keypoints_are_told_by_the_last_step_that_they_passed(run):
    first, second = run.matched.features.names[:2]
    outside, inside = keypoint_fates(run, [first, second])
    verified = keypoints_with_verified_match(run, [first])[first]
    assert (outside.fates == Fate.IN_MODEL).sum() == 0  # it has no pose
    assert (outside.fates == Fate.VERIFIED).sum() == len(np.unique(verified)) > 50
    image = next(i for i in run.model.images.values() if i.name == second)
    assert (inside.fates == Fate.IN_MODEL).sum() == image.num_points3D
    assert "150 in the model, 0 more verified" in counted_fates(np.full(150, Fate.IN_MODEL))
    np.testing.assert_allclose(
        inside.xy, features_h5.read_keypoints(run.matched.features.path, second), atol=1e-4
    )


def test_keypoints_that_match_and_are_not_verified_are_matched(run):
    name, *_ = run.matched.features.names
    with open_database(run.database.path) as db:
        without = replace(run.database, path=run.database.path.with_name("without.db"))
        shutil.copyfile(run.database.path, without.path)
    with open_database(without.path) as db:
        db.clear_two_view_geometries()
    (found,) = keypoint_fates(replace(run, database=without), [name])
    assert set(found.fates.tolist()) <= {Fate.MATCHED, Fate.UNMATCHED}
    assert (found.fates == Fate.MATCHED).sum() > 50


def test_a_wrong_focal_length_shows_in_the_map_as_strokes_outwards(run):
    model = pycolmap.Reconstruction(run.model)
    for camera in model.cameras.values():
        camera.params = camera.params * np.array([0.99, 0.99, 1, 1])
    found = image_residuals(model)
    assert found.images == 5
    assert found.size == (1024, 768)
    cells = residual_map(found)
    assert cells.errors.shape == (12, 16)
    outwards = np.stack(np.meshgrid(cells.x - 512, cells.y - 384), axis=2)
    known = np.isfinite(cells.errors)
    assert known.sum() > 20
    along = (cells.residuals[known] * outwards[known]).sum(axis=1)
    assert (along > 0).all()
    lengths = np.linalg.norm(outwards[known], axis=1)
    np.testing.assert_allclose(cells.errors[known], 0.01 * lengths, rtol=0.5, atol=0.6)
    figure, longest = residual_figure(cells, found.size)
    assert longest == pytest.approx(np.nanmax(np.linalg.norm(cells.residuals, axis=2)))
    assert len(figure.data) == 2


def test_too_few_observations_make_no_map(run):
    found = Residuals(size=(64, 48), images=1, xy=np.ones((4, 2)), residuals=np.ones((4, 2)))
    figure, longest = residual_figure(residual_map(found), found.size)
    assert (len(figure.data), longest) == (0, 0)
    assert image_residuals(pycolmap.Reconstruction()) is None


def test_skipped_pairs_are_named():
    report = Report("t")
    add_failures(report, {}, {("a.jpg", HOSTILE): "no features"})
    assert "a.jpg &lt;script&gt;" in report.html()
    add_errors(report, pycolmap.Reconstruction())
    assert "Reprojection errors" not in report.html()


def test_pairs_that_triplets_contradict_are_named():
    assert contradicted_rows([]) == []
    ((name, value),) = contradicted_rows([{"images": ["a.jpg", "b.jpg"], "degrees": 90.0}])
    assert name == "pairs that all triplets contradict"
    assert value == "1: a.jpg - b.jpg"
