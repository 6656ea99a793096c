"""Steps on a Ray cluster: nodes and drivers may be killed, the files equal those of one process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import cluster_work
import pytest
from cluster_nodes import connected, nodes_of_one_cpu
from cluster_work import COUNT, EXTRACTION, MATCHING, extract_noting, match_noting, notes
from hdf5 import contents
from PIL import Image
from sharded import assert_same_data, run_all_shards
from skimage import data

from d2_hloc.app.cli import main
from d2_hloc.core.listing import list_images
from d2_hloc.core.threads import one_thread_an_operation
from d2_hloc.features import on_cluster
from d2_hloc.features.extraction import extract
from d2_hloc.features.on_cluster import extract_on
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files import features_h5
from d2_hloc.files import ray as cluster
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.merging import merge
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.files.ray import Cluster, ClusterError, run_shards
from d2_hloc.files.run_record import RunRecord
from d2_hloc.files.shards import Shard, is_finished
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.on_cluster import match_on
from d2_hloc.matching.pairs import write_pairs
from d2_hloc.sfm.matched import InputImages, match_collection
from d2_hloc.sfm.options import Reconstruct


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Eleven photographs and one that cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    photo = Image.fromarray(data.astronaut())
    for k in range(11):
        photo.crop((30 * k, 20, 30 * k + 101, 107)).save(folder / f"{k:02d}.png")
    (folder / "05-empty.png").touch()
    return folder


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory):
    """Features and matches that one process makes, with one thread as the workers have."""
    folder = tmp_path_factory.mktemp("alone")
    with one_thread_an_operation():
        features = extract(EXTRACTION, images, folder / "features.h5").path
        matches = match(MATCHING, pairs(images), features, folder / "matches.h5").path
    return features, matches


def pairs(images):
    """With some of an image that has no features."""
    return list(combinations(list_images(images), 2))[:30]


def kill_midway(head, nodes, output, log, killed):
    """Wait for a node that has done a part of a shard; kill what runs on it."""
    while not killed:
        found = notes(log)
        times = Counter(shard for *_, shard, _ in found)
        for node, process, shard, _ in found:
            if node in nodes and times[shard] == 1:
                killed.append((node, shard))
                os.kill(process, signal.SIGKILL)
                head.remove_node(nodes.pop(node), allow_graceful=False)
                return
        time.sleep(0.02)


def run_and_kill(head, nodes, output, log, work):
    """Run the work's shards; a node is killed on the way. Which, and the shard it was at."""
    killed = []
    killer = threading.Thread(target=kill_midway, args=(head, nodes, output, log, killed))
    killer.start()
    try:
        cluster_work.run(head.address, work)
    finally:
        killed.append(None)  # ends the thread in any case
        killer.join()
    assert killed[0] is not None, "nothing was killed"
    return killed[0]


def assert_done_once(log, killed, keys):
    """Another node went on with the killed node's shard; no finished record was made again."""
    found = notes(log)
    times = Counter(key for *_, key in found)
    assert max(times.values()) == 1
    assert len(keys - set(times)) <= 1  # one that came to disk, but not into the log
    node, shard = killed
    of_shard = [by for by, _, where, _ in found if where == shard]
    assert of_shard[0] == node
    assert len(set(of_shard)) == 2
    assert not [by for by in of_shard[of_shard.count(node) :] if by == node]


@pytest.mark.slow
@pytest.mark.ci
def test_killed_nodes_lose_only_what_is_unfinished(images, alone, tmp_path, monkeypatch):
    with nodes_of_one_cpu(monkeypatch, 3) as (head, nodes), connected(head):
        features, log = tmp_path / "features.h5", tmp_path / "extraction.log"
        work = partial(extract_noting, images, features, log)
        killed = run_and_kill(head, nodes, features, log, work)
        assert_done_once(log, killed, set(features_h5.extracted_names(alone[0])))
        assert contents(merge(features)) == contents(alone[0])
        matches, log = tmp_path / "matches.h5", tmp_path / "matching.log"
        work = partial(match_noting, pairs(images), features, matches, log)
        killed = run_and_kill(head, nodes, matches, log, work)
        known = [features_h5.pair_key(*p) for p in pairs(images) if "05-empty.png" not in p]
        assert_done_once(log, killed, set(known))
        assert contents(merge(matches)) == contents(alone[1])
        the_command_does_the_same(head.address, images, alone, tmp_path / "command")


def the_command_does_the_same(address, images, alone, folder):
    folder.mkdir()
    features, matches = folder / "features.h5", folder / "matches.h5"
    listed = write_pairs(folder / "pairs.txt", pairs(images))
    engine = ["--engine", "ray", "--address", address]
    extraction = ["extract", str(images), str(features), *engine]
    assert main([*extraction, "--max-keypoints", "30"]) == 0
    assert contents(features) == contents(alone[0])
    assert main(["match", str(listed), str(features), str(matches), *engine]) == 0
    assert contents(matches) == contents(alone[1])
    (images / "new.png").write_bytes((images / "00.png").read_bytes())
    try:
        with pytest.raises(ConfigurationChanged, match=r'features\.h5: .*"max_keypoints": 30'):
            extract_on(Cluster(address=address), ExtractionOptions(), images, features)
    finally:
        (images / "new.png").unlink()


@pytest.mark.slow
def test_a_driver_and_a_head_that_are_killed_go_on_when_restarted(
    images, alone, tmp_path, monkeypatch
):
    features, log = tmp_path / "features.h5", tmp_path / "log"
    with nodes_of_one_cpu(monkeypatch, 1) as (head, _):
        with driver(head.address, images, features, log) as process:
            while not is_finished(features, Shard(1, COUNT)) or len(notes(log)) < 4:
                assert process.poll() is None
                time.sleep(0.02)
            process.kill()
        os.kill(head.head_node.all_processes["gcs_server"][0].process.pid, signal.SIGKILL)
    assert len(notes(log)) < 11
    with (
        nodes_of_one_cpu(monkeypatch, 1) as (head, _),
        driver(head.address, images, features, log) as process,
    ):
        assert process.wait() == 0
    assert max(Counter(key for *_, key in notes(log)).values()) == 1
    assert contents(features) == contents(alone[0])


def driver(*arguments):
    return subprocess.Popen([sys.executable, cluster_work.__file__, *map(str, arguments)])


def test_what_is_done_needs_no_cluster(images, alone, tmp_path):
    nowhere = Cluster(address="nowhere")
    names = [n for n in list_images(images) if "empty" not in n]
    assert extract_on(nowhere, EXTRACTION, images, alone[0], names).path == alone[0]
    known = [pair for pair in pairs(images) if "empty" not in "".join(pair)]
    assert match_on(nowhere, MATCHING, known, alone[0], alone[1]).path == alone[1]


def test_without_ray_a_sentence_says_how_to_get_it(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["extract", str(images), str(tmp_path / "f.h5"), "--engine", "ray"]) == 1
    assert "pip install 'd2_hloc[ray]'" in capsys.readouterr().err


def test_the_commands_that_make_models_ask_the_cluster(images, tmp_path, capsys):
    pytest.importorskip("ray")
    engine = ["--engine", "ray", "--address", "127.0.0.1:1"]
    assert main(["reconstruct", str(images), str(tmp_path / "out"), *engine]) == 1
    assert "no Ray cluster can be used there" in capsys.readouterr().err


def test_queries_are_localized_in_the_shards_of_a_cluster(small_run, tmp_path, monkeypatch):
    asked = []

    def in_turn(cluster, work, sizes, desc, unit):
        asked.append((unit, sum(sizes.values())))
        for shard in sizes:
            work(shard)

    monkeypatch.setattr(cluster, "run_shards", in_turn)
    given = [small_run.output, small_run.queries]
    for name, engine in (("here", []), ("there", ["--engine", "ray"])):
        more = [*small_run.intrinsics, *engine, "--quiet"]
        assert main(["localize", *map(str, given), str(tmp_path / name), *more]) == 0
    assert asked == [("image", 1), ("pair", 4)]
    here, there = ((tmp_path / name / "poses.txt").read_text() for name in ("here", "there"))
    assert here == there


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_a_cluster_that_does_not_answer_is_one_sentence(address):
    pytest.importorskip("ray")
    with pytest.raises(ClusterError, match=f"--address {address}: no Ray cluster .* 'ray start"):
        run_shards(Cluster(address=address), print, {Shard(1, 1): 1}, "test", "shard")


def test_reconstructions_extract_and_match_in_the_shards_of_a_cluster(
    images, alone, tmp_path, monkeypatch
):
    asked = []

    def in_turn(cluster, work, sizes, desc, unit):
        asked.append((cluster, unit, sum(sizes.values())))
        for shard in sizes:
            work(shard)

    monkeypatch.setattr(cluster, "run_shards", in_turn)
    monkeypatch.setattr(on_cluster, "IMAGES", 5)
    conf = Reconstruct(extraction=EXTRACTION, matching=MATCHING)
    somewhere = Cluster(address="somewhere")
    inputs = InputImages(folder=images, names=list_images(images), cameras=cameras)
    found = match_collection(conf, inputs, RunRecord(tmp_path, {}), engine=somewhere)
    assert asked == [(somewhere, "image", 12), (somewhere, "pair", 55)]
    assert len(found.pairs) == 55
    features, matches = tmp_path / "features.h5", tmp_path / "matches.h5"
    assert features_h5.extracted_names(features) == features_h5.extracted_names(alone[0])
    assert all(len(features_h5.read_matches(matches, *pair)) for pair in found.pairs)
    assert sorted(p.name for p in tmp_path.glob("*.h5*")) == ["features.h5", "matches.h5"]


def test_queries_are_localized_in_shards_as_in_one_run(small_run, tmp_path, capsys):
    paths = ["localize", str(small_run.output), str(small_run.queries)]
    given = [*small_run.intrinsics, "--refinement", "off"]
    assert main([*paths, str(tmp_path / "whole"), *given]) == 0
    output = tmp_path / "sharded"
    run_all_shards(lambda *more: main([*paths, str(output), *given, *more]), output)
    assert main([*paths, str(output), *given, "--shard", "1/2"]) == 0
    assert "run the command without --shard" in capsys.readouterr().out
    assert main([*paths, str(output), *given]) == 0
    assert_same_data(output, tmp_path / "whole")
    poses = [(folder / "poses.txt").read_text() for folder in (output, tmp_path / "whole")]
    assert poses[0] == poses[1]


def cameras(names):
    return {n: pycolmap.Camera(model="PINHOLE", width=101, height=87) for n in names}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--address", "auto"], "--address and --worker-cpus are for --engine ray"),
        (["--engine", "ray", "--shard", "1/2"], "leave --shard and --stage out"),
        (["--engine", "ray", "--worker-cpus", "0"], "cpus must be from 1 to 1024, not 0"),
    ],
)
def test_arguments_that_do_not_go_together_are_one_sentence(arguments, sentence, capsys):
    assert main(["extract", "images", "f.h5", *arguments]) == 1
    assert sentence in capsys.readouterr().err


class FakeRay:
    """Workers that die at some shards, so many times each."""

    class exceptions:  # noqa: N801 - as the module is called
        class RayError(Exception): ...

        class RayTaskError(RayError): ...

    def __init__(self, deaths):
        self.deaths, self.begun, self.cancelled = Counter(deaths), [], []

    def submit(self, shard):
        self.begun.append(shard)
        return shard, len(self.begun)

    def wait(self, references):
        return references[:1], references[1:]

    def get(self, reference):
        shard, _ = reference
        if self.deaths[shard] > 0:
            self.deaths[shard] -= 1
            raise self.exceptions.RayError("out of memory\nmore")

    def cancel(self, reference):
        self.cancelled.append(reference[0])


def test_a_shard_that_kills_its_workers_is_named_after_the_others_are_done():
    ray, shards = FakeRay({Shard(1, 3): 2, Shard(2, 3): 9}), Shard.all(3)
    done = []
    with pytest.raises(ClusterError, match=r"shard 2/3: 5 workers .*\(out of memory\)"):
        done.extend(cluster._finished(ray, ray.submit, shards))
    assert sorted(shard.index for shard in done) == [1, 3]
    assert Counter(ray.begun) == {Shard(1, 3): 3, Shard(2, 3): 5, Shard(3, 3): 1}


class FakeNodes:
    """A cluster's resources, and what is asked for of them."""

    def __init__(self, *nodes):
        self.found = [{"Alive": True, "Resources": resources} for resources in nodes]
        self.asked = {}

    def nodes(self):
        return self.found

    def cluster_resources(self):
        return sum((Counter(node["Resources"]) for node in self.found), Counter())

    def put(self, value):
        return value

    def remote(self, **options):
        self.asked = options
        return lambda work: SimpleNamespace(remote=lambda *arguments: (work, *arguments))


@pytest.mark.parametrize(
    ("nodes", "wanted", "cpus", "gpus"),
    [
        ([{"CPU": 8}], Cluster(), 1, 0),
        ([{"CPU": 8}, {"CPU": 8, "GPU": 2}], Cluster(), 1, 1),
        ([{"CPU": 8}, {"CPU": 8, "GPU": 2}], Cluster(cpus=4, gpus=0), 4, 0),
    ],
)
def test_a_worker_takes_a_gpu_where_there_are_some(nodes, wanted, cpus, gpus, caplog):
    ray = FakeNodes(*nodes)
    submitted = cluster._submitter(ray, wanted, print)(Shard(1, 2))
    assert (ray.asked["num_cpus"], ray.asked["num_gpus"]) == (cpus, gpus)
    assert ray.asked["max_calls"] == 0  # a process lives on with its network
    assert submitted == (cluster._work, print, Shard(1, 2), Path.cwd(), cpus)
    assert caplog.text == ""


def test_a_cluster_without_a_node_that_fits_says_so(caplog):
    cluster._submitter(FakeNodes({"CPU": 2}, {}), Cluster(cpus=4), print)
    assert "no node of the cluster has 4 CPUs, 0 GPUs; waiting for one" in caplog.text


def test_a_worker_that_does_not_see_the_files_says_so(tmp_path):
    with pytest.raises(ClusterError, match=r"gone: is not there on .* must see the same files"):
        cluster._work(print, Shard(1, 1), tmp_path / "gone", 1)


def test_shards_that_went_elsewhere_are_one_sentence(images, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "run_shards", lambda *_: None)
    with pytest.raises(ClusterError, match=r"0001-of-0001\.h5: was written, but not here"):
        extract_on(Cluster(), EXTRACTION, images, tmp_path / "features.h5")


def test_what_is_left_is_ended_when_the_driver_is_stopped():
    ray = FakeRay({})
    first = cluster._finished(ray, ray.submit, Shard.all(3))
    assert next(first) == Shard(1, 3)
    first.close()
    assert ray.cancelled == [Shard(2, 3), Shard(3, 3)]
