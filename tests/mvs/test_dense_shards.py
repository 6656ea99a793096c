"""Depth maps made in shards, by an array of jobs or on a cluster, are those of one process."""

import threading
import time

import pytest
from cluster_nodes import connected, nodes_of_one_cpu
from dense_scene import write_scene

from d2_hloc.app import cli
from d2_hloc.core.threads import one_thread_an_operation
from d2_hloc.files.colmap import ModelError
from d2_hloc.files.lock import Busy, FileLock
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.files.ray import Cluster
from d2_hloc.files.shards import Shard
from d2_hloc.mvs import reconstruct, shards
from d2_hloc.mvs.options import DenseOptions, SweepOptions
from d2_hloc.mvs.reconstruct import reconstruct_dense
from d2_hloc.mvs.shards import dense_shard, reconstruct_dense_on

OPTIONS = DenseOptions(backend="torch", sweep=SweepOptions(hypotheses=16))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The paths of a model and of its images."""
    folder = tmp_path_factory.mktemp("dense")
    write_scene(folder)
    return folder / "sparse", folder / "images"


@pytest.fixture(scope="module")
def alone(scene, tmp_path_factory):
    """Dense stereo by one process, with one thread as the workers have."""
    output = tmp_path_factory.mktemp("alone") / "dense"
    with one_thread_an_operation():
        found = reconstruct_dense(OPTIONS, *scene, output)
    return maps(output), found


def maps(folder):
    return {p.relative_to(folder): p.read_bytes() for p in (folder / "stereo").rglob("*.bin")}


@pytest.mark.usefixtures("one_thread")
def test_shards_of_both_stages_make_the_maps_of_one_process(scene, alone, tmp_path, monkeypatch):
    output = tmp_path / "dense"
    with pytest.raises(ModelError, match="dense: is not prepared; run the stage 'prepare' once"):
        dense_shard(OPTIONS, *scene, output, "maps", Shard(1, 3))
    dense_shard(OPTIONS, *scene, output, "prepare", Shard(1, 1))
    for shard in (Shard(3, 3), Shard(1, 3)):
        dense_shard(OPTIONS, *scene, output, "maps", shard)
    with pytest.raises(ModelError, match=r"view/1\.png has no depth map yet; finish all shards"):
        dense_shard(OPTIONS, *scene, output, "consistency", Shard(1, 3))
    dense_shard(OPTIONS, *scene, output, "maps", Shard(2, 3))
    for shard in Shard.all(2):  # another number of shards is no harm
        dense_shard(OPTIONS, *scene, output, "consistency", shard)
    assert maps(output) == alone[0]
    monkeypatch.setattr(reconstruct, "sweep_view", lambda *_: pytest.fail("made again"))
    assert reconstruct_dense(OPTIONS, *scene, output) == alone[1]


@pytest.mark.usefixtures("one_thread")
def test_the_command_makes_shards_and_then_the_rest(scene, alone, tmp_path, capsys):
    (tmp_path / "conf.yaml").write_text("{backend: torch, sweep: {hypotheses: 16}}")
    command = ["dense", scene[0], tmp_path / "dense", "--images", scene[1]]
    command = [*map(str, command), "--config", str(tmp_path / "conf.yaml")]
    assert cli.main([*command, "--shard", "1/2"]) == 1
    assert "--shard is of a --stage, maps or consistency" in capsys.readouterr().err
    assert cli.main([*command, "--stage", "prepare"]) == 0
    for stage in ("maps", "consistency"):
        for index in (0, 1):
            assert cli.main([*command, "--stage", stage, "--shard", f"{index}/2"]) == 0
    assert maps(tmp_path / "dense") == alone[0]
    assert cli.main(command) == 0
    assert str(alone[1].points) in capsys.readouterr().out


def test_a_shard_of_another_configuration_or_in_use_is_refused(scene, tmp_path):
    output = tmp_path / "dense"
    dense_shard(OPTIONS, *scene, output, "prepare", Shard(1, 1))
    other = DenseOptions(backend="torch", num_sources=2, sweep=OPTIONS.sweep)
    with pytest.raises(ConfigurationChanged, match='"num_sources": 4'):
        dense_shard(other, *scene, output, "maps", Shard(1, 5))
    dense_shard(OPTIONS, *scene, output, "maps", Shard(1, 5))
    lock = output / "stereo" / "shards" / "maps-0001-of-0005.lock"
    with FileLock(lock), pytest.raises(Busy, match="another run is at work"):
        dense_shard(OPTIONS, *scene, output, "maps", Shard(1, 5))


@pytest.mark.slow
def test_a_killed_node_of_a_cluster_changes_no_map(scene, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAPS", 1)
    output = tmp_path / "dense"
    with nodes_of_one_cpu(monkeypatch, 2) as (head, nodes), connected(head):

        def kill_after_the_first_map():
            while not list(output.rglob("*.photometric.bin")):
                time.sleep(0.01)
            head.remove_node(nodes.popitem()[1], allow_graceful=False)

        killer = threading.Thread(target=kill_after_the_first_map, daemon=True)
        killer.start()
        found = reconstruct_dense_on(Cluster(address=head.address), OPTIONS, *scene, output)
        killer.join(10)
    assert len(nodes) == 1
    assert maps(output) == alone[0]
    assert found == alone[1]
