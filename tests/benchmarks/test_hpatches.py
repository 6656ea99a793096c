"""HPatches from a folder to its report, on a tiny data set of the real layout made from photographs
that are warped by known homographies."""

import csv
import json
import shutil
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from killing import go_on_after_interruptions, run_until_killed
from PIL import Image
from scripts import load
from sharded import assert_same_data, cluster_here
from skimage import data, transform

from d2_hloc.benchmarks.hpatches.data import (
    LEFT_OUT,
    HomographyPair,
    HPatchesError,
    read_hpatches,
)
from d2_hloc.benchmarks.hpatches.results import (
    PAPER,
    features_by_image,
    means_by_part,
    read_summaries,
)
from d2_hloc.benchmarks.hpatches.scores import (
    THRESHOLDS,
    ScoringOptions,
    estimate_homography,
    score_homographies,
)
from d2_hloc.benchmarks.hpatches.shared_results import read_accuracy_cache
from d2_hloc.benchmarks.pair_scores import matched_keypoints
from d2_hloc.core import config
from d2_hloc.core.structs import Features, Matches
from d2_hloc.features import extraction
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files import features_h5
from d2_hloc.files.merging import merge
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.matching.match_pairs import MatchedPairs

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "pipelines" / "hpatches.py"
HOMOGRAPHIES = [
    np.array([[0.95, 0.06, 4.0], [-0.05, 0.98, 9.0], [0.0, 0.0, 1.0]]),
    np.array([[1.02, -0.1, 12.0], [0.08, 0.9, 3.0], [2e-4, -1e-4, 1.0]]),
]
SIZE = (204, 150)
SHIFT = np.array([3.0, 2.0])  # between images that are only planted


def photograph(name):
    """A piece of a photograph, 204 x 150."""
    left, top = {"astronaut": (120, 20), "coffee": (180, 120)}[name]
    width, height = SIZE
    return getattr(data, name)()[top : top + height, left : left + width]


def write_sequence(folder, first, others, homographies, extension):
    folder.mkdir(parents=True)
    for k, image in enumerate([first, *others], 1):
        Image.fromarray(image).save(folder / f"{k}.{extension}")
    for k, homography in enumerate(homographies, 2):
        np.savetxt(folder / f"H_1_{k}", homography)


def warped(image, homography):
    moved = transform.warp(image, np.linalg.inv(homography), order=3, mode="reflect")
    return (moved * 255).round().astype(np.uint8)


def relit(image, gain):
    return (image * gain).round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A sequence of each kind, one of the eight, and a folder that is none."""
    folder = tmp_path_factory.mktemp("hpatches")
    astronaut, coffee = photograph("astronaut"), photograph("coffee")
    views = [warped(astronaut, h) for h in HOMOGRAPHIES]
    write_sequence(folder / "v_astronaut", astronaut, views, HOMOGRAPHIES, "ppm")
    write_sequence(folder / "i_coffee", coffee, [relit(coffee, 0.8)], [np.eye(3)], "png")
    write_sequence(folder / "v_talent", astronaut, views, HOMOGRAPHIES, "ppm")
    (folder / "notes").mkdir()
    return folder


@pytest.fixture
def copied(dataset, tmp_path):
    """The data set, to damage it."""
    return Path(shutil.copytree(dataset, tmp_path / "copy"))


@pytest.fixture(scope="module")
def pipeline():
    return load("hpatches")


def arguments(dataset, output, *more):
    """`more` may switch refinement on again."""
    given = "--dataset", dataset, "--output", output, "--refinement", "off"
    return [str(a) for a in (*given, *more)]


def run(pipeline, dataset, output, *more):
    """The command, in this process; its exit status."""
    return pipeline.run_command(
        "hpatches", lambda: pipeline.main(arguments(dataset, output, *more))
    )


@pytest.fixture(scope="module")
def finished(pipeline, dataset, tmp_path_factory):
    """Two features compared."""
    output = tmp_path_factory.mktemp("finished") / "out"
    assert run(pipeline, dataset, output, "--feature", "d2net", "sift") == 0
    return output


def test_reads_pairs_in_order_with_their_homographies(dataset):
    found = read_hpatches(dataset)
    assert [p.names for p in found.pairs] == [
        ("i_coffee/1.png", "i_coffee/2.png"),
        ("v_astronaut/1.ppm", "v_astronaut/2.ppm"),
        ("v_astronaut/1.ppm", "v_astronaut/3.ppm"),
    ]
    assert np.allclose(found.pairs[2].homography, HOMOGRAPHIES[1])
    assert found.image_names[:2] == ["i_coffee/1.png", "i_coffee/2.png"]
    assert len(found.image_names) == 5
    assert found.left_out == ["v_talent"]
    assert found.problems == {"notes": "is not named i_... or v_..."}


def test_the_eight_are_left_out_by_name(tmp_path):
    image = photograph("coffee")
    for name in [*LEFT_OUT, "i_ajuntament", "v_abstract"]:
        write_sequence(tmp_path / name, image, [image], [np.eye(3)], "ppm")
    found = read_hpatches(tmp_path)
    assert sorted(found.left_out) == sorted(LEFT_OUT)
    assert len(LEFT_OUT) == 8
    assert {p.sequence for p in found.pairs} == {"i_ajuntament", "v_abstract"}


def test_whatever_is_missing_or_damaged_is_named(copied):
    folder = copied / "v_astronaut"
    (folder / "H_1_2").unlink()
    (folder / "H_1_3").write_text("1 0 0\n0 1")
    np.savetxt(folder / "H_1_4", np.eye(3))
    (copied / "i_coffee" / "1.png").unlink()
    (copied / "i_empty").mkdir()
    image = photograph("coffee")
    write_sequence(copied / "v_bad", image, [image] * 4, [np.eye(3)[:2], np.ones((3, 3))], "png")
    (copied / "v_bad" / "H_1_4").write_text("one two three")
    np.savetxt(copied / "v_bad" / "H_1_5", np.full((3, 3), np.nan))
    write_sequence(copied / "v_good", image, [image], [np.eye(3)], "jpg")
    found = read_hpatches(copied)
    reasons = dict(found.problems)
    assert reasons.pop("v_astronaut/H_1_3").startswith("cannot be read as numbers (")
    assert reasons.pop("v_bad/H_1_4").startswith("cannot be read as numbers (")
    assert reasons == {
        "notes": "is not named i_... or v_...",
        "v_astronaut/2.ppm": "there is no homography H_1_2",
        "v_astronaut/4": "there is no image 4",
        "i_coffee": "has no image 1",
        "i_empty": "has no image 1",
        "v_bad/H_1_2": "holds 2 x 3 numbers, not 3 x 3",
        "v_bad/H_1_3": "is not a homography: it cannot be undone",
        "v_bad/H_1_5": "is not a homography: it cannot be undone",
    }
    assert [p.sequence for p in found.pairs] == ["v_good"]


def test_a_gap_in_a_sequence_is_named(copied):
    for name in ("2.ppm", "H_1_2"):
        (copied / "v_astronaut" / name).unlink()
    found = read_hpatches(copied)
    assert found.problems["v_astronaut/2"] == "there is no image 2"
    assert "v_astronaut/3.ppm" in found.image_names


def test_of_two_formats_the_published_one_is_taken(copied):
    for path in (copied / "v_astronaut").glob("*.ppm"):
        Image.open(path).save(path.with_suffix(".png"))
    assert read_hpatches(copied).pairs[1].names == ("v_astronaut/1.ppm", "v_astronaut/2.ppm")


def test_a_folder_without_sequences_is_one_sentence(tmp_path):
    with pytest.raises(HPatchesError, match="there is no such folder"):
        read_hpatches(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(HPatchesError, match="holds no sequence of HPatches: folders i_"):
        read_hpatches(tmp_path)


def test_a_run_writes_what_it_promises(finished):
    for folder in (finished / "d2net", finished / "sift"):
        names = {p.name for p in folder.iterdir()}
        assert names == {
            *("features.h5", "matches.h5", "scores.json", "run.json", "report.html"),
            *("hpatches.csv", "mma.png", "mma.svg", f"{folder.name}.npy"),
        }
    names = {p.name for p in finished.iterdir()}
    assert names == {
        *("d2net", "sift", "run.json", "report.html", "hpatches.csv", "mma.png", "mma.svg")
    }
    assert features_h5.extracted_names(finished / "sift" / "features.h5")[0] == "i_coffee/1.png"


def test_the_homographies_are_found_again(finished):
    """Planted: SIFT is right to a pixel, D2-Net to its cells."""
    scores = json.loads((finished / "run.json").read_text())["scores"]
    assert scores["sift"]["viewpoint"]["mma_3px"] > 0.75
    assert scores["sift"]["viewpoint"]["corner_auc_5px"] > 0.7
    assert scores["d2net"]["viewpoint"]["mma_10px"] > 0.6
    assert scores["d2net"]["illumination"]["mma_1px"] > 0.8
    for name in ("d2net", "sift"):
        assert scores[name]["overall"]["repeatability"] > 0.4


def test_scores_are_what_the_definition_says(finished, dataset):
    """A pair's accuracy from the files, match by match; then the means."""
    data = read_hpatches(dataset)
    features, matches = (finished / "d2net" / f"{n}.h5" for n in ("features", "matches"))
    expected = []
    for pair in data.pairs:
        xy0, xy1 = (features_h5.read_features(features, n).keypoints.tolist() for n in pair.names)
        errors = []
        for i, j in features_h5.read_matches(matches, *pair.names).pairs.tolist():
            x, y, w = pair.homography @ [*xy0[i], 1]
            errors.append(np.hypot(x / w - xy1[j][0], y / w - xy1[j][1]))
        expected.append([np.mean(np.array(errors) <= t) for t in range(1, 11)])
    record = json.loads((finished / "d2net" / "run.json").read_text())
    for part, chosen in {"overall": [0, 1, 2], "illumination": [0], "viewpoint": [1, 2]}.items():
        means = np.mean([expected[k] for k in chosen], axis=0)
        found = [record["scores"][part][f"mma_{t}px"] for t in range(1, 11)]
        assert found == pytest.approx(means.tolist(), abs=1e-6)
    counts = [len(features_h5.read_features(features, name)) for name in data.image_names]
    assert record["scores"]["overall"]["features"] == pytest.approx(np.mean(counts))
    assert record["counts"]["sequences"] == 2
    assert record["counts"]["pairs"] == 3
    assert record["counts"]["left_out_sequences"] == ["v_talent"]
    assert record["counts"]["skipped"] == {"notes": "is not named i_... or v_..."}


def test_the_csv_has_a_row_a_sequence(finished):
    with (finished / "hpatches.csv").open() as file:
        rows = list(csv.DictReader(file))
    named = [(row["feature"], row["sequence"], row["kind"], row["pairs"]) for row in rows]
    assert named == [
        ("d2net", "i_coffee", "illumination", "1"),
        ("d2net", "v_astronaut", "viewpoint", "2"),
        ("sift", "i_coffee", "illumination", "1"),
        ("sift", "v_astronaut", "viewpoint", "2"),
    ]
    scores = json.loads((finished / "run.json").read_text())["scores"]
    for row in rows:
        for t in (1, 5, 10):
            expected = scores[row["feature"]][row["kind"]][f"mma_{t}px"]
            assert float(row[f"mma_{t}px"]) == pytest.approx(expected, abs=1e-5)


def test_the_report_has_measured_and_published_curves_and_drawings(finished):
    page = (finished / "report.html").read_text()
    for text in (
        "<td>d2net</td>",
        "<td>D2-Net MS trained</td>",
        "<td>measured</td>",
        "<td>published</td>",
        "Best and worst pairs: sift",
        "v_astronaut/1.ppm - v_astronaut/2.ppm:",
        "is not named i_... or v_...",
        "Left out, as in the paper",
    ):
        assert text in page
    with Image.open(finished / "mma.png") as picture:
        assert picture.width > 1000
    svg = (finished / "mma.svg").read_text()
    assert "<svg" in svg
    assert "<dc:date>" not in svg


def test_the_table_in_the_terminal_marks_its_sources(pipeline, dataset, finished, capsys):
    assert run(pipeline, dataset, finished, "--feature", "d2net", "sift") == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if "sequences" in line)
    assert header.split()[:5] == ["feature", "source", "sequences", "pairs", "features"]
    table = [line.split() for line in lines if line.startswith("overall")]
    assert ["overall", "d2net", "measured", "2", "3"] in [row[:5] for row in table]
    assert any("published" in row and "540" in row for row in table)
    assert "left out, as in the paper: v_talent" in lines
    assert "skipped by sift: notes: is not named i_... or v_..." in lines


def test_a_finished_run_is_not_made_again(pipeline, dataset, finished, monkeypatch):
    monkeypatch.setattr(extraction, "create_extractor", lambda _: pytest.fail("extracted again"))
    monkeypatch.setattr(
        "d2_hloc.benchmarks.hpatches.scores.score_homography", lambda *_: pytest.fail("scored")
    )
    assert run(pipeline, dataset, finished, "--feature", "d2net", "sift") == 0


def test_a_feature_can_join_a_comparison_later(pipeline, dataset, finished, tmp_path):
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    assert run(pipeline, dataset, output, "--feature", "d2net", "sift", "d2net-ms") == 0
    assert "<td>d2net-ms</td>" in (output / "report.html").read_text()


def test_shards_and_a_cluster_find_the_same(pipeline, dataset, finished, tmp_path, monkeypatch):
    sharded, features = tmp_path / "sharded", ("--feature", "d2net", "sift")

    def command(*more):
        return run(pipeline, dataset, sharded, *features, *more)

    for step in ("features.h5", "matches.h5"):
        for shard in ("1/2", "2/2"):
            assert command("--shard", shard) == 0
        for feature in ("d2net", "sift"):
            merge(sharded / feature / step)
    assert command("--shard", "1/2") == 0
    assert not (sharded / "report.html").exists()
    assert command() == 0
    asked = cluster_here(monkeypatch)
    on_cluster = tmp_path / "cluster"
    engine = ["--engine", "ray", "--address", "somewhere"]
    assert run(pipeline, dataset, on_cluster, "--feature", "sift", *engine) == 0
    assert asked == [("image", 5), ("pair", 3)]
    for output, name in ((sharded / "d2net", "d2net"), (sharded / "sift", "sift")):
        assert_same_data(output, finished / name)
    assert_same_data(on_cluster, finished / "sift")
    tables = [(output / "hpatches.csv").read_text() for output in (sharded, finished)]
    assert tables[0] == tables[1]


def test_another_configuration_stops_and_shows_both(pipeline, dataset, finished, capsys):
    output = finished / "sift"
    assert run(pipeline, dataset, output, "--feature", "sift", "--top-k", "50") == 1
    error = capsys.readouterr().err
    assert '"top_k": null' in error
    assert '"top_k": 50' in error


def test_top_k_keeps_the_best(pipeline, dataset, finished, tmp_path):
    output = tmp_path / "out"
    assert run(pipeline, dataset, output, "--feature", "d2net", "--top-k", "40") == 0
    name = "v_astronaut/1.ppm"
    every = features_h5.read_features(finished / "d2net" / "features.h5", name)
    best = features_h5.read_features(output / "features.h5", name)
    assert len(best) == 40 < len(every)
    assert torch.equal(best.scores, every.scores.sort(descending=True).values[:40])


def test_unusable_images_and_their_pairs_are_named(pipeline, copied, tmp_path, capsys):
    (copied / "v_astronaut" / "3.ppm").write_bytes(b"P6 what follows is cut")
    output = tmp_path / "out"
    assert run(pipeline, copied, output, "--feature", "sift") == 0
    record = json.loads((output / "run.json").read_text())
    assert record["counts"]["pairs"] == 2
    skipped = record["counts"]["skipped"]
    assert "cannot be read as an image" in skipped["v_astronaut/3.ppm"]
    reason = skipped["v_astronaut/1.ppm v_astronaut/3.ppm"]
    assert reason == "there are no features of v_astronaut/3.ppm"
    assert "skipped by sift: v_astronaut/3.ppm: " in capsys.readouterr().out
    assert "v_astronaut/3.ppm" in (output / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--feature", "surf"], "there is no feature 'surf'; known are d2net"),
        (["--feature", "disk"], "the weights of disk are not here: run with --download"),
        (["--feature", "hloc:any"], "hloc:any: hloc cannot be used"),
        (["--top-k", "0"], "extraction.top_k must be from 1 to 1000000000, not 0"),
        (["--compare", "nowhere.npy"], "nowhere.npy: cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence(
    pipeline, dataset, tmp_path, capsys, monkeypatch, more, expected
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setitem(sys.modules, "hloc.extract_features", None)
    assert run(pipeline, dataset, tmp_path / "out", *more) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"hpatches: {expected}")
    assert error.count("\n") == 1


def test_downloads_when_it_is_asked_to(pipeline, dataset, tmp_path, monkeypatch):
    asked = []
    adapter = SimpleNamespace(download=lambda options: asked.append(options.feature))
    monkeypatch.setattr("d2_hloc.features.registry.adapter_of", lambda name: adapter)
    monkeypatch.setattr(pipeline, "run_hpatches", lambda *_: None)
    pipeline.main(arguments(dataset, tmp_path, "--feature", "disk", "xfeat", "--download"))
    pipeline.main(arguments(dataset, tmp_path, "--feature", "disk"))
    assert asked == ["disk", "xfeat"]


def test_the_yaml_in_the_repository_is_the_default(pipeline):
    assert config.load(pipeline.HPatches, pipeline.CONFIG) == pipeline.HPatches()


def test_goes_on_after_a_kill(pipeline, dataset, finished, tmp_path):
    """Killed at its first sign of life, then run to the end: the same scores."""
    output = tmp_path / "out"
    run_until_killed([SCRIPT, *arguments(dataset, output, "--feature", "d2net")], 0.3, b"%|")
    assert run(pipeline, dataset, output, "--feature", "d2net") == 0
    scores = [json.loads((f / "scores.json").read_text()) for f in (output, finished / "d2net")]
    assert scores[0] == scores[1]


def test_goes_on_after_interruptions_before_any_record(pipeline, dataset, finished, tmp_path):
    output = tmp_path / "out"

    def compare():
        return run(pipeline, dataset, output, "--feature", "sift", "d2net")

    assert go_on_after_interruptions(compare, most=2)
    before, after = ((o / "sift" / "scores.json").read_text() for o in (finished, output))
    assert json.loads(before)["pairs"] == json.loads(after)["pairs"]


def test_accuracies_of_others_are_not_written_over(pipeline, dataset, tmp_path, capsys):
    (tmp_path / "sift.npy").write_bytes(b"mine")
    assert run(pipeline, dataset, tmp_path, "--feature", "sift") == 1
    assert "holds a sift.npy that this program did not make" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["sift.npy"]


def scored(options, pairs, features, matches, output, refine=None):
    """The step, for the matches of a file that some other step has made."""
    found = MatchedPairs.read(matches, [pair.names for pair in pairs])
    return score_homographies(options, pairs, features, found, output, refine)


def test_scoring_goes_on_from_what_is_there(finished, dataset, tmp_path, monkeypatch):
    pairs, folder = read_hpatches(dataset).pairs, finished / "sift"
    files = folder / "features.h5", folder / "matches.h5", tmp_path / "scores.json"
    first = scored(ScoringOptions(), pairs[:1], *files)
    done = []
    original = sys.modules["d2_hloc.benchmarks.hpatches.scores"].score_homography

    def counted(options, pair, *rest):
        done.append(pair.names)
        return original(options, pair, *rest)

    monkeypatch.setattr("d2_hloc.benchmarks.hpatches.scores.score_homography", counted)
    found = scored(ScoringOptions(), pairs, *files)
    assert done == [p.names for p in pairs[1:]]
    assert found[0] == first[0]
    assert json.loads((folder / "scores.json").read_text()) == json.loads(files[2].read_text())
    with pytest.raises(ConfigurationChanged, match=r'"threshold": 3\.0.*"threshold": 2\.0'):
        scored(ScoringOptions(threshold=2.0), pairs, *files)
    with pytest.raises(ConfigurationChanged, match='"is_refined": true'):
        scored(ScoringOptions(), pairs, *files, refine=lambda names, xy0, xy1: (xy0, xy1))
    files[2].write_text('{"pairs": [')
    with pytest.raises(ValueError, match=r"scores\.json: is damaged; delete it"):
        scored(ScoringOptions(), pairs, *files)


def test_scores_of_other_matches_are_made_again(finished, dataset, tmp_path, caplog):
    pairs, folder = read_hpatches(dataset).pairs, finished / "sift"
    matches = Path(shutil.copy(folder / "matches.h5", tmp_path))
    files = folder / "features.h5", matches, tmp_path / "scores.json"
    first = scored(ScoringOptions(), pairs, *files)
    with h5py.File(matches, "a") as file:
        for name0 in file:
            for name1 in file[name0]:
                file[name0][name1]["matches0"][...] = -1
    found = scored(ScoringOptions(), pairs, *files)
    assert "was made from other files than are there now" in caplog.text
    assert first != found
    assert all(score.num_matches == 0 for score in found)


def test_scores_do_not_hold_the_features_of_other_pairs(tmp_path):
    """Many pairs take no more memory than few."""
    pairs = write_pairs(tmp_path, count=60, num_features=3000)
    files = tmp_path / "features.h5", tmp_path / "matches.h5"
    scored(ScoringOptions(), pairs[:2], *files, tmp_path / "warm.json")
    peaks = []
    for count in (3, 60):
        tracemalloc.start()
        scored(ScoringOptions(), pairs[:count], *files, tmp_path / f"{count}.json")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 200_000


def write_pairs(folder, count, num_features, noise=0.5):
    """Pairs of images whose features all match, `noise` pixels from where they belong."""
    rng = np.random.default_rng(0)
    pairs, homography = [], np.eye(3)
    homography[:2, 2] = SHIFT
    with (
        Staged(folder / "features.h5", {"a": 1}, "keypoints") as features,
        Staged(folder / "matches.h5", {"a": 1}, "matches0") as matches,
    ):
        for k in range(count):
            names = f"v_{k:03}/1.ppm", f"v_{k:03}/2.ppm"
            xy0 = rng.uniform(5, 600, (num_features, 2))
            xy1 = xy0 + SHIFT + rng.normal(0, noise, xy0.shape)
            for name, xy in zip(names, (xy0, xy1), strict=True):
                record = features_h5.features_record(planted(xy), (640, 640), 1.0, "float16")
                features.add(name, record)
            index = torch.arange(num_features).repeat(2, 1).T
            found = Matches(pairs=index, scores=torch.ones(num_features))
            matches.add(
                features_h5.pair_key(*names), features_h5.matches_record(found, num_features)
            )
            pairs.append(
                HomographyPair(
                    sequence=f"v_{k:03}", name0=names[0], name1=names[1], homography=homography
                )
            )
    return pairs


def planted(xy):
    return Features(
        keypoints=torch.from_numpy(xy).float(),
        scores=torch.ones(len(xy)),
        descriptors=torch.zeros(len(xy), 4),
        scales=torch.ones(len(xy)),
    )


def test_refinement_moves_keypoints_before_they_are_scored(tmp_path):
    pairs = write_pairs(tmp_path, count=2, num_features=100, noise=3.0)
    files = tmp_path / "features.h5", tmp_path / "matches.h5"
    asked = []

    def exact(names, xy0, xy1):
        asked.append(names)
        return xy0, xy0 + SHIFT

    plain = scored(ScoringOptions(), pairs, *files, tmp_path / "plain.json")
    moved = scored(ScoringOptions(), pairs, *files, tmp_path / "moved.json", exact)
    assert plain[0].accuracy[0] < 0.3
    assert moved[0].accuracy == (1.0,) * len(THRESHOLDS)
    assert moved[0].repeatability == plain[0].repeatability  # which asks no match
    assert asked == [pair.names for pair in pairs]


def test_matched_keypoints_are_rows_of_both_ends():
    xy0, xy1 = np.arange(10.0).reshape(5, 2), np.arange(20.0, 30).reshape(5, 2)
    found = Matches(pairs=torch.tensor([[0, 3], [4, 1]]), scores=torch.ones(2))
    left, right = matched_keypoints(("a", "b"), xy0, xy1, found, None)
    assert left.tolist() == [[0, 1], [8, 9]]
    assert right.tolist() == [[26, 27], [22, 23]]


def test_a_pair_without_matches_counts_as_zero(tmp_path):
    pairs = write_pairs(tmp_path, count=2, num_features=50)
    shutil.move(tmp_path / "matches.h5", tmp_path / "old.h5")
    none = Matches(pairs=torch.empty(0, 2, dtype=torch.int64), scores=torch.empty(0))
    with Staged(tmp_path / "matches.h5", {"a": 1}, "matches0") as staged:
        for pair in pairs:
            staged.add(features_h5.pair_key(*pair.names), features_h5.matches_record(none, 50))
    files = tmp_path / "features.h5", tmp_path / "matches.h5"
    scores = scored(ScoringOptions(), pairs, *files, tmp_path / "scores.json")
    assert scores[0].accuracy == (0.0,) * len(THRESHOLDS)
    assert scores[0].corner_error is None
    overall = means_by_part("none", scores)[0]
    assert overall.accuracy[0] == 0
    assert overall.corner_auc == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("count", [0, 3, 60])
def test_the_homography_is_estimated_among_wrong_matches(count):
    rng = np.random.default_rng(0)
    xy0, truth = rng.uniform(0, 500, (count, 2)), HOMOGRAPHIES[1]
    moved = np.c_[xy0, np.ones(count)] @ truth.T
    xy1 = moved[:, :2] / moved[:, 2:]
    xy1[: count // 4] = rng.uniform(0, 500, (count // 4, 2))
    found = estimate_homography(xy0, xy1, 3.0)
    if count < 4:
        assert found is None
    else:
        assert np.allclose(found / found[2, 2], truth, rtol=1e-3, atol=1e-6)


def test_images_of_a_sequence_are_counted_once(tmp_path):
    scores = scored(
        ScoringOptions(),
        write_pairs(tmp_path, count=1, num_features=20),
        tmp_path / "features.h5",
        tmp_path / "matches.h5",
        tmp_path / "scores.json",
    )
    other = replace(scores[0], name1="v_000/3.ppm", num_features1=50)
    assert features_by_image([scores[0], other]) == {
        "v_000/1.ppm": 20,
        "v_000/2.ppm": 20,
        "v_000/3.ppm": 50,
    }


def test_the_cache_file_holds_the_scores(finished):
    measured = json.loads((finished / "d2net" / "run.json").read_text())["scores"]
    found = read_summaries(finished / "d2net" / "d2net.npy")
    assert [s.part for s in found] == ["overall", "illumination", "viewpoint"]
    for summary in found:
        expected = measured[summary.part]
        assert summary.accuracy[2] == pytest.approx(expected["mma_3px"])
        assert summary.num_matches == pytest.approx(expected["matches"])
        assert summary.num_pairs == expected["pairs"]
    assert found[0].num_features == pytest.approx(measured["overall"]["features"])
    cache = read_accuracy_cache(finished / "d2net" / "d2net.npy")
    assert set(cache.illumination) == set(range(1, 16))
    assert cache.kinds == ["i", "v", "v"]


def test_others_results_stand_beside_ours(pipeline, dataset, finished, tmp_path, capsys):
    shared = tmp_path / "superpoint.npy"
    shutil.copy(finished / "d2net" / "d2net.npy", shared)
    more = "--feature", "sift", "--compare", shared
    assert run(pipeline, dataset, finished / "sift", *more) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    parts = [row[0] for row in rows if row[1:3] == ["superpoint", "superpoint.npy"]]
    assert parts == ["overall", "illumination", "viewpoint"]


def test_the_papers_curves_rise_and_are_those_of_figure_4():
    assert [s.num_features for s in PAPER] == [2994, 4928, 5965, 8254]
    for summary in PAPER:
        assert len(summary.accuracy) == 10
        assert list(summary.accuracy) == sorted(summary.accuracy)
    assert PAPER[0].accuracy[2] == 0.406


def test_released_positions_are_an_option(pipeline, tmp_path):
    path = tmp_path / "released.yaml"
    path.write_text("extraction:\n  d2net:\n    position: released\n")
    conf = config.load(pipeline.HPatches, path)
    assert conf.extraction == ExtractionOptions(d2net=conf.extraction.d2net)
    assert conf.extraction.d2net.position == "released"
