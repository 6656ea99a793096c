"""Two images: their matches, geometry, picture, table and report, from Python and the command."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import d2_hloc
from d2_hloc.app import cli
from d2_hloc.core.orientation import to_upright
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.refinement.options import SpreadingOptions
from d2_hloc.reports.image_pair import alignment, warped
from d2_hloc.sfm.image_pair import match_pair
from d2_hloc.sfm.options import PairMatchingOptions


@pytest.fixture(scope="module")
def shifted(tmp_path_factory, photo):
    """A photograph, and the same one cut 16 pixels to the right and 8 below."""
    folder = tmp_path_factory.mktemp("pair dir")
    values = (photo.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    paths = folder / "the left.png", folder / "right.png"
    Image.fromarray(values[:-8, :-16]).save(paths[0])
    Image.fromarray(values[8:, 16:]).save(paths[1])
    return paths


@pytest.fixture(scope="module")
def pair(shifted):
    return d2_hloc.match_pair(*shifted)


def test_matches_of_a_shifted_image_are_its_shift(pair):
    moved = (pair.xy1 - pair.xy0)[pair.inliers]
    assert pair.num_inliers > 50
    np.testing.assert_allclose(np.median(moved, axis=0), [-16, -8], atol=0.1)
    assert pair.num_inliers == len(pair.geometry.inlier_matches)
    assert list(pair.scores) == sorted(pair.scores, reverse=True)


def test_more_matches_spread_around_refined_ones(shifted, pair):
    spreading = SpreadingOptions(enabled=True)
    more = match_pair(*shifted, PairMatchingOptions(spreading=spreading))
    assert more.num_inliers > pair.num_inliers + 10
    assert more.num_inliers == len(more.geometry.inlier_matches)
    moved = (more.xy1 - more.xy0)[more.inliers]
    assert (np.abs(moved - [-16, -8]) < 0.5).all(axis=1).mean() > 0.9
    assert list(more.scores) == sorted(more.scores, reverse=True)
    assert len(np.unique(more.xy0[more.inliers], axis=0)) == more.num_inliers


def test_dense_matches_go_from_coarse_to_fine(shifted, pair, tmp_path):
    turned = tmp_path / "turned.png"  # as a camera on its side stores it
    image = Image.open(shifted[1])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    extraction = ExtractionOptions(feature="d2net-dense", resize_max=250)
    dense = match_pair(shifted[0], turned, PairMatchingOptions(extraction=extraction))
    assert dense.num_inliers > 5 * pair.num_inliers
    assert list(dense.scores) == sorted(dense.scores, reverse=True)
    upright = to_upright(dense.xy1, 6, (image.height, image.width))
    moved = (upright - dense.xy0)[dense.inliers]
    np.testing.assert_allclose(np.median(moved, axis=0), [-16, -8], atol=0.1)
    assert (np.abs(moved - [-16, -8]) < 1).all(axis=1).mean() > 0.9


def test_the_images_are_aligned_by_their_inliers(pair, shifted):
    homography = alignment(pair)
    assert homography is not None
    exact = np.array([[1.0, 0, -16], [0, 1, -8], [0, 0, 1]])
    np.testing.assert_allclose(homography / homography[2, 2], exact, atol=0.5)
    image0, image1 = (Image.open(path).convert("RGB") for path in shifted)
    found = np.asarray(warped(image1, exact, image0.size))
    np.testing.assert_array_equal(found[8:, 16:], np.asarray(image0)[8:, 16:])


def test_the_command_writes_table_picture_report_and_record(shifted, tmp_path, capsys):
    output = tmp_path / "out"
    assert cli.main(["pair", *map(str, shifted), str(output), "--refinement", "off"]) == 0
    shown = capsys.readouterr().out
    assert "inliers" in shown
    rows = list(csv.DictReader((output / "matches.csv").open()))
    inliers = [row for row in rows if row["inlier"] == "1"]
    assert json.loads((output / "run.json").read_text())["counts"]["inliers"] == len(inliers)
    assert abs(float(inliers[0]["x1"]) - float(inliers[0]["x0"]) + 16) < 4
    assert Image.open(output / "matches.jpg").width > 500
    page = (output / "report.html").read_text()
    assert 'class="swipe"' in page
    assert "the left.png" in page


def test_images_without_anything_in_common_have_no_geometry(shifted, tmp_path):
    grey = tmp_path / "grey.png"
    Image.new("RGB", (200, 150), (90, 90, 90)).save(grey)
    pair = match_pair(shifted[0], grey, PairMatchingOptions())
    assert (pair.num_inliers, alignment(pair)) == (0, None)
    assert pair.to_csv().splitlines()[0] == "x0,y0,x1,y1,score,inlier"


def test_a_file_that_is_no_image_is_named_and_nothing_is_made(shifted, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("no image")
    output = tmp_path / "out"
    assert cli.main(["pair", str(shifted[0]), str(tmp_path / "text.jpg"), str(output)]) == 1
    assert "text.jpg: cannot be read as an image" in capsys.readouterr().err
    assert not output.exists()
