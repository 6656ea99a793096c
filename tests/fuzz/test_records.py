"""Records, caches and checkpoints of output folders, of any content, are read or refused.

An output folder may be a stranger's as a file may: what it says is checked before it is used.
"""

import copy
import io
import json
import shutil
import zipfile

import pytest
import torch
from fuzzing import BATCH, batches, check, check_in_child, damaged, fewer, model_file
from hostile_files import model, photograph
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save
from synthetic import synthesize

from d2_hloc.benchmarks.inloc.pose_files import query_store
from d2_hloc.files.colmap import read_model
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.provenance import note_configuration
from d2_hloc.files.run_record import RunRecord
from d2_hloc.files.shards import Shard, note_items
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.mvs.workspace import prepare_workspace, read_workspace
from d2_hloc.reports.runs import compare_runs
from d2_hloc.sfm.cameras.intrinsics import read_intrinsics
from d2_hloc.sfm.cameras.rigs import has_rigs
from d2_hloc.sfm.database import build_database
from d2_hloc.sfm.localize import find_model_source
from d2_hloc.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from d2_hloc.training.matcher.cache import CachedView, moved, read_views, write_views
from d2_hloc.training.network import Network

CONFIGURATION = {"images": "photos", "reference": "model", "extraction": {"feature": "sift"}}
RECORD = {
    "configuration": CONFIGURATION,
    "versions": {"d2_hloc": "1"},
    "counts": {"images": 4, "failed": {"a": "b"}},
    "timings": {"extract": 1.5},
    "scores": {"points": 5, "errors": {"mean": 0.5}},
    "done": {"match": "abc", "features": {"a.jpg": 3}},
}


def go_on(path):
    """Open it as a rerun does."""
    record = RunRecord(path.parent, CONFIGURATION)
    with record.timed("extract"):
        record.is_done("match", "abc")
    record.mark_done("match", "abc")


def scored(path):
    store = query_store(path, {"a": 1})
    return store.complete({"q": "q"}, lambda _: pytest.fail("it is there"), "x", "query")


def staged(path):
    """Contents of the parts of features.h5."""
    with Staged(path.parent.parent / "features.h5", {"a": 1}, "keypoints"):
        pass


def noted_items(path):
    note_items(path.parent.parent / "features.h5", ["a", "b"])
    with Staged(path.parent / "0001-of-0001.h5", {}, "keypoints"):
        Shard.parse("1/1")


def compared(path):
    other = path.parent.with_name("other") / path.name
    other.parent.mkdir(exist_ok=True)
    other.write_text(json.dumps(RECORD))
    compare_runs([path.parent, other.parent], path.with_name("page.html"))


TEXTS = {
    "run.json": (RECORD, go_on),
    "source/run.json": (RECORD, lambda path: find_model_source(path.parent)),
    "compared/run.json": (RECORD, compared),
    "scores.json": ({"configuration": {"a": 1}, "queries": [{"name": "q"}]}, scored),
    "features.h5.parts/configuration.json": ({"a": 1}, staged),
    "cache/configuration.json": ({"a": 1}, lambda p: note_configuration(p.parent, {"a": 1})),
}


@pytest.mark.parametrize("name", TEXTS)
@given(data=st.data())
def test_records_of_any_content(tmp_path, name, data):
    valid, read = TEXTS[name]
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.draw(damaged(json.dumps(valid).encode(), text=True)))
    check(read, path)


@pytest.mark.parametrize("name", TEXTS)
def test_the_records_that_are_changed_are_ones_that_read(tmp_path, name):
    valid, read = TEXTS[name]
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(valid))
    read(path)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A prepared workspace, its model and images."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "images").mkdir()
    for k, name in enumerate(("a.png", "b.png")):
        photograph(k).save(folder / "images" / name)
    given = model()(folder), folder / "images", folder / "dense", 64, {"a": 1}
    prepare_workspace(*given)
    return given


@given(data=st.data())
def test_workspaces_of_any_record(workspace, data):
    record = Outputs(workspace[2]).workspace_record
    kept = record.with_name("kept.json")
    if not kept.exists():
        shutil.copyfile(record, kept)
    record.write_bytes(data.draw(damaged(kept.read_bytes(), text=True)))
    check(lambda _: prepare_workspace(*workspace), record)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
@fewer
@given(data=st.data())
def test_workspaces_of_any_model(workspace, tmp_path, name, data):
    folder = tmp_path / "dense"
    if not folder.exists():
        shutil.copytree(workspace[2], folder)
        shutil.copyfile(folder / "sparse" / name, tmp_path / name)
    contents = data.draw(batches((tmp_path / name).read_bytes()))
    check_in_child(lambda p: read_workspace(p.parent.parent, 4), folder / "sparse" / name, contents)


@pytest.mark.parametrize("name", ["cameras.txt", "images.txt", "cameras.bin", "images.bin"])
@fewer
@given(data=st.data())
def test_intrinsics_of_models_of_any_content(workspace, tmp_path, name, data):
    folder = tmp_path / "model"
    if not folder.exists():
        folder.mkdir()
        found = read_model(workspace[0])
        found.write_text(folder) if name.endswith("txt") else found.write(folder)
        shutil.copyfile(folder / name, tmp_path / name)
    valid = (tmp_path / name).read_bytes()
    contents = data.draw(batches(valid, text=name.endswith("txt")))
    named = folder / f"cameras{name[-4:]}"
    check_in_child(lambda _: read_intrinsics(named), folder / name, contents)


@pytest.fixture(scope="module")
def rigged(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("rigged"), 4, 8, cameras_of_rig=2)


@pytest.mark.parametrize("name", ["rigs.bin", "frames.bin", "images.bin", "rigs.txt", "frames.txt"])
@fewer
@given(data=st.data())
def test_rigs_of_any_content(rigged, tmp_path, name, data):
    path, valid = model_file(rigged.model, tmp_path, name)

    def database_of(path):
        found = read_model(path.parent)
        known = {image.name for image in found.images.values() if image.has_pose}
        pairs = [pair for pair in rigged.pairs if set(pair) <= known]
        cameras = {name: rigged.cameras[name] for name in known if name in rigged.cameras}
        rigs = found if has_rigs(found) else None
        build_database(
            tmp_path / "database.db", cameras, pairs, rigged.features, rigged.matches, rigs
        )

    check_in_child(database_of, path, data.draw(batches(valid, text=name.endswith("txt"))))


def views():
    return [
        CachedView(
            keypoints=torch.rand(5, 2),
            descriptors=torch.ones(5, 4, dtype=torch.int8),
            view_from_photo=torch.eye(3, dtype=torch.float64).numpy(),
            size=(64, 48),
            photo_size=(80, 60),
        )
    ]


def written_views(folder):
    """A path for other content, and a file of views."""
    path, whole = folder / "of" / "a.safetensors", folder / "whole.safetensors"
    if not whole.exists():
        write_views(whole, views())
        path.parent.mkdir(exist_ok=True)
    return path, whole


def used_views(path):
    """Read views as training does."""
    for view in read_views(path) or ():
        moved(view.keypoints, view.view_from_photo)
        assert view.descriptors.shape[0] == len(view.keypoints)
        assert view.descriptors.float().isfinite().all()
        assert all(isinstance(edge, int) and edge > 0 for edge in (*view.size, *view.photo_size))


@fewer
@given(data=st.data())
def test_views_of_any_content(tmp_path, data):
    path, whole = written_views(tmp_path)
    check_in_child(used_views, path, data.draw(batches(whole.read_bytes())))


@fewer
@given(data=st.data())
def test_views_of_any_note(tmp_path, data):
    path, whole = written_views(tmp_path)
    with safe_open(whole, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        note = file.metadata()["views"].encode()
    notes = [n.decode(errors="replace") for n in data.draw(batches(note, text=True))]
    check_in_child(used_views, path, [save(tensors, {"views": n}) for n in notes])


class Training:
    """A network and what trains it; its checkpoint is small, its tensors being all zeros."""

    def __init__(self):
        self.network = Network("d2_ots", "conv4_3", "float32")
        self.optimizer = torch.optim.Adam(self.network.learned(), lr=1e-3)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step(self):
        for parameter in self.network.learned():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()

    def load(self, path):
        progress = load_checkpoint(path, self.network, self.optimizer, self.scaler)
        assert progress.epoch >= 0
        assert 0 <= progress.step <= progress.total_steps
        self.step()

    def write(self, path):
        self.step()
        progress = Progress(epoch=1, step=2, total_steps=5, best_epoch=1, best_accuracy=0.5)
        save_checkpoint(path, self.network, self.optimizer, self.scaler, progress)
        values = torch.load(path, weights_only=True)
        torch.save(all_zeros(values), path)


def all_zeros(values):
    if isinstance(values, torch.Tensor) and values.dim():
        return torch.zeros(1, dtype=values.dtype).expand(values.shape)
    if isinstance(values, dict):
        return {key: all_zeros(value) for key, value in values.items()}
    return [all_zeros(v) for v in values] if isinstance(values, list) else values


@pytest.fixture(scope="module")
def training():
    return Training()


@fewer
@given(data=st.data())
def test_checkpoints_of_any_content(training, tmp_path, data):
    path, whole = tmp_path / "of" / "last.pth", tmp_path / "whole.pth"
    if not whole.exists():
        path.parent.mkdir(exist_ok=True)
        training.write(whole)
        training.load(whole)
    with zipfile.ZipFile(whole) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    pickles = data.draw(batches(members[pickled]))
    archives = [zipped(members | {pickled: content}) for content in pickles]
    check_in_child(training.load, path, archives)


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


OTHERS = [None, True, -1, 0, 2**70, float("nan"), -1.0, "x", [], {}, {"a": 1}, [[]], (1, 2)]
OTHERS += [torch.zeros(2), torch.tensor(float("nan")), torch.zeros(3, 3).long(), b"x"]


def places(values, at=()):
    """Keys that lead to each value, at any depth."""
    yield at
    items = values.items() if isinstance(values, dict) else ()
    items = enumerate(values) if isinstance(values, list) else items
    for key, value in items:
        yield from places(value, (*at, key))


def changed(values, at, other):
    """Values with another one at a place."""
    if not at:
        return other
    copied = copy.copy(values)
    copied[at[0]] = changed(values[at[0]], at[1:], other)
    return copied


@fewer
@given(data=st.data())
def test_checkpoints_of_other_values(training, tmp_path, data):
    path, whole = tmp_path / "of" / "last.pth", tmp_path / "whole.pth"
    if not whole.exists():
        path.parent.mkdir(exist_ok=True)
        training.write(whole)
    values = torch.load(whole, weights_only=True)
    changes = st.tuples(st.sampled_from(list(places(values))), st.sampled_from(range(len(OTHERS))))
    contents = []
    for at, other in data.draw(st.lists(changes, min_size=BATCH, max_size=BATCH)):
        buffer = io.BytesIO()
        torch.save(changed(values, at, OTHERS[other]), buffer)
        contents.append(buffer.getvalue())
    check_in_child(training.load, path, contents)
