"""Merged shards read as the file that one process would have written."""

import json
import os
import shutil
from itertools import chain, combinations

import h5py
import numpy as np
import pytest
from hdf5 import contents, links
from PIL import Image
from skimage import data

from d2_hloc.app.cli import main
from d2_hloc.core.images import ImageError
from d2_hloc.features.extraction import extract
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files import features_h5, merging
from d2_hloc.files.atomic import DiskFull
from d2_hloc.files.merging import merge
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.files.shards import Shard, shard_path, shards_folder
from d2_hloc.files.staged_h5 import Staged, Value
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.matching.pairs import write_pairs
from d2_hloc.network.options import D2NetOptions

OPTIONS = ExtractionOptions(d2net=D2NetOptions(max_keypoints=30))
COUNT = 3


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Photographs in folders; two that cannot be read; two whose keys collide."""
    folder = tmp_path_factory.mktemp("images")
    photo = Image.fromarray(data.astronaut())
    names = ["db/a.png", "db-a.png", "db/b.png", "night/c.png", "night/d.png", "e.png"]
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        photo.crop((60 * k, 20, 60 * k + 101, 107)).save(folder / name)
    (folder / "db" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "empty.png").touch()
    return folder


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory):
    """Made by one process: features and matches of all pairs, and of one unknown."""
    folder = tmp_path_factory.mktemp("alone")
    features = extract(OPTIONS, images, folder / "features.h5").path
    return features, match(MatchingOptions(), pairs(), features, folder / "matches.h5").path


def pairs():
    known = ["db-a.png", "db/b.png", "night/c.png", "night/d.png", "e.png"]
    return [*combinations(known, 2), ("e.png", "night/d.png"), ("gone.png", "e.png")]


def extract_shards(images, output, shards):
    for shard in shards:
        extract(OPTIONS, images, output, shard=shard)
    return output


def match_shards(features, output, shards):
    for shard in shards:
        match(MatchingOptions(), pairs(), features, output, shard=shard)
    return output


def write_shards(output, keys, count=COUNT):
    """Shards of a step that takes no time."""
    for shard in Shard.all(count):
        write_shard(output, shard, shard.of(keys))
    return output


def write_shard(output, shard, keys, configuration=None):
    path = shard_path(output, shard)
    with Staged(path, configuration or {"tag": "a"}, "keypoints", output) as staged:
        for key in keys:
            if key not in staged.done | staged.merged:
                size = keys.index(key)
                staged.add(key, {"keypoints": Value(np.full((size, 2), size), {"uncertainty": 2})})
    return path


KEYS = ["a.jpg", "db/b.jpg", "db/c.jpg", "db/d.jpg", "e.jpg"]


@pytest.mark.parametrize("link", [False, True], ids=["copied", "linked"])
def test_merged_features_equal_those_of_one_process(images, alone, tmp_path, link):
    output = extract_shards(images, tmp_path / "features.h5", reversed(Shard.all(COUNT)))
    assert not output.exists()
    assert merge(output, link) == output
    assert contents(output) == contents(alone[0])
    assert features_h5.extracted_names(output) == features_h5.extracted_names(alone[0])
    assert sorted(features_h5.read_failures(output)) == ["db/a.png", "db/cut.jpg", "empty.png"]


@pytest.mark.parametrize("link", [False, True], ids=["copied", "linked"])
def test_merged_matches_equal_those_of_one_process(alone, tmp_path, link):
    output = match_shards(alone[0], tmp_path / "matches.h5", Shard.all(COUNT))
    merge(output, link)
    assert contents(output) == contents(alone[1])
    assert list(features_h5.read_failures(output)) == ["gone.png e.png"]


def test_matches_can_be_made_from_linked_features(images, alone, tmp_path):
    features = merge(extract_shards(images, tmp_path / "features.h5", Shard.all(COUNT)), link=True)
    output = match(MatchingOptions(), pairs(), features, tmp_path / "matches.h5").path
    assert contents(output) == contents(alone[1])


def test_a_rerun_of_shards_does_only_what_the_merged_file_lacks(images, alone, tmp_path):
    output = extract(OPTIONS, images, tmp_path / "features.h5", ["e.png", "night/c.png"]).path
    extract_shards(images, output, Shard.all(COUNT))
    held = [features_h5.extracted_names(shard_path(output, shard)) for shard in Shard.all(COUNT)]
    assert sorted(chain(*held)) == ["db-a.png", "db/b.png", "night/d.png"]
    merge(output)
    assert contents(output) == contents(alone[0])
    matches = match(MatchingOptions(), pairs()[3:7], output, tmp_path / "matches.h5").path
    match_shards(output, matches, Shard.all(COUNT))
    assert contents(merge(matches)) == contents(alone[1])


def test_a_replaced_photograph_of_the_merged_file_stops_its_shard(images, tmp_path):
    folder = shutil.copytree(images, tmp_path / "images")
    output = extract(OPTIONS, folder, tmp_path / "features.h5", ["db/b.png", "e.png"]).path
    shutil.copy(folder / "night" / "c.png", folder / "e.png")
    os.utime(folder / "e.png", (2e9, 2e9))
    extract(OPTIONS, folder, output, shard=Shard(1, 2))
    with pytest.raises(ImageError, match=r"e\.png changed since"):
        extract(OPTIONS, folder, output, shard=Shard(2, 2))


def test_copied_records_need_no_shards_and_linked_ones_say_so(tmp_path):
    output = write_shards(tmp_path / "features.h5", KEYS)
    expected = contents(merge(output, link=True))
    assert links(output) == len(KEYS)
    shard = shard_path(output, Shard(1, COUNT))
    shard.rename(tmp_path / "elsewhere.h5")
    with pytest.raises(ValueError, match=r"keeps a\.jpg in .*0001-of-0003\.h5, which is not there"):
        features_h5.extracted_names(output)
    (tmp_path / "elsewhere.h5").rename(shard)
    merge(output)
    assert links(output) == 0
    assert not shards_folder(output).exists()
    assert contents(output) == expected


def test_a_linked_file_can_be_moved_with_its_shards(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    output = merge(write_shards(tmp_path / "here" / "features.h5", KEYS), link=True)
    expected = contents(output)
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir("/")
    assert contents(tmp_path / "there" / "features.h5") == expected


def test_records_are_added_to_a_linked_file(tmp_path):
    output = merge(write_shards(tmp_path / "features.h5", KEYS[:3]), link=True)
    write_shards(output, KEYS)
    merge(output, link=True)
    assert links(output) == len(KEYS)
    assert features_h5.extracted_names(output) == sorted(KEYS)


def test_a_merge_that_is_killed_can_be_run_again(tmp_path, monkeypatch):
    output = write_shards(tmp_path / "features.h5", KEYS)
    expected = contents(merge(write_shards(tmp_path / "other.h5", KEYS)))
    for module, name in ((h5py.File, "copy"), (merging.shutil, "rmtree")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                merge(output)
        assert output.exists() == (name == "rmtree")
    assert contents(merge(output)) == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["features.h5", "other.h5"]


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("left", range(4))
def test_a_merge_that_is_killed_while_it_deletes_shards_can_be_run_again(
    tmp_path, monkeypatch, left
):
    output = write_shards(tmp_path / "features.h5", KEYS)
    delete = shutil.rmtree

    def until_killed(folder):
        for path in sorted(folder.iterdir())[left:]:
            path.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(shutil, "rmtree", until_killed)
        with pytest.raises(KeyboardInterrupt):
            merge(output)
    before = output.read_bytes()
    assert shutil.rmtree is delete
    assert merge(output) == output
    assert output.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [output.name]
    with pytest.raises(ValueError, match="there are no shards to merge"):
        merge(output)


def test_no_shards_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"f\.h5\.shards: there are no shards to merge; make them"):
        merge(tmp_path / "f.h5")


def test_shards_that_are_missing_or_unfinished_are_named(tmp_path):
    output = write_shards(tmp_path / "features.h5", KEYS, count=9)
    shard_path(output, Shard(4, 9)).unlink()
    (shards_folder(output) / "0007-of-0009.h5.parts").mkdir()
    with pytest.raises(ValueError, match=r"not finished: --shard 4/9, 7/9; run it again"):
        merge(output)
    for k in range(2, 6):
        shard_path(output, Shard(k, 9)).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"--shard 2/9, 3/9, 4/9 and 2 more"):
        merge(output)
    assert not output.exists()


def test_a_damaged_shard_is_named_and_can_be_made_again(tmp_path):
    output = write_shards(tmp_path / "features.h5", KEYS)
    path = shard_path(output, Shard(2, COUNT))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"0002-of-0003\.h5: is damaged; .* --shard 2/3 again"):
        merge(output)
    path.unlink()
    write_shards(output, KEYS)
    assert features_h5.extracted_names(merge(output)) == sorted(KEYS)


def test_shards_of_another_configuration_are_refused(tmp_path):
    output = write_shards(tmp_path / "features.h5", KEYS)
    path = shard_path(output, Shard(2, COUNT))
    path.unlink()
    write_shard(output, Shard(2, COUNT), KEYS[1:3], {"tag": "b"})
    with pytest.raises(ConfigurationChanged, match=r'0002-of-0003.*"tag": "b".*"tag": "a"'):
        merge(output)


def test_shards_of_another_configuration_than_the_merged_files_are_refused(tmp_path):
    output = merge(write_shards(tmp_path / "features.h5", KEYS[:3]))
    with pytest.raises(ConfigurationChanged, match=r'features\.h5: .*"tag": "a".*"tag": "b"'):
        write_shard(output, Shard(1, COUNT), KEYS, {"tag": "b"})


def test_a_full_disk_is_one_sentence_for_copies_alone(tmp_path, monkeypatch):
    output = write_shards(tmp_path / "features.h5", KEYS)
    usage = shutil.disk_usage(tmp_path)._replace(free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match=r"features\.h5: the disk is full"):
        merge(output)
    merge(output, link=True)
    assert features_h5.extracted_names(output) == sorted(KEYS)


def test_the_merged_file_holds_no_trace_of_shards(tmp_path):
    output = merge(write_shards(tmp_path / "features.h5", KEYS))
    with h5py.File(output) as file:
        assert json.loads(file.attrs["configuration"]) == {"tag": "a"}
        assert set(file.attrs) == {"configuration", "failures"}
    assert [p.name for p in tmp_path.iterdir()] == ["features.h5"]


def test_the_command_makes_and_merges_shards_of_an_array(images, alone, tmp_path, capsys):
    features, matches = tmp_path / "features.h5", tmp_path / "matches.h5"
    listed = str(write_pairs(tmp_path / "pairs.txt", pairs()))
    extraction = ["extract", str(images), str(features), "--max-keypoints", "30"]
    matching = ["match", listed, str(features), str(matches)]
    for command, output, expected in zip(
        (extraction, matching), (features, matches), alone, strict=True
    ):
        for k in range(COUNT):  # as --array=0-2 counts
            assert main([*command, "--shard", f"{k}/{COUNT}"]) == 0
        assert "0002-of-0003.h5" in capsys.readouterr().out
        assert main(["merge", str(output)]) == 0
        assert contents(output) == contents(expected)
    assert main([*matching, "--shard", "4/3"]) == 1
    assert "shard 4/3: i/n takes i from 1 to n" in capsys.readouterr().err
