"""Every stage that runs out of space says so, also where COLMAP says something else."""

import json
import shutil
import subprocess

import pytest
from small_run import CLI

from d2_hloc.files import atomic
from d2_hloc.files.atomic import DiskFull, disk_full_in_a_sentence
from d2_hloc.files.colmap import ModelError, open_database, pycolmap
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.run_record import RunRecord
from d2_hloc.sfm.matched import Matched

COLMAPS_WORDS = "No registered database factory succeeded."


@pytest.fixture
def full(monkeypatch):
    """A disk with 60 KiB left."""
    usage = shutil.disk_usage("/")._replace(free=60 << 10)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: usage)


def fail(*_):
    raise RuntimeError(COLMAPS_WORDS)


def test_what_colmap_fails_at_on_a_full_disk_is_the_disk(full, tmp_path):
    where = tmp_path / "out"
    with pytest.raises(DiskFull, match="out: the disk is full"), disk_full_in_a_sentence(where):
        fail()
    record = RunRecord(tmp_path / "out", {})
    with pytest.raises(DiskFull, match="out: the disk is full"), record.timed("database"):
        fail()


def test_elsewhere_it_is_what_it_is(tmp_path):
    record = RunRecord(tmp_path, {})
    with pytest.raises(RuntimeError, match=COLMAPS_WORDS), record.timed("database"):
        fail()


def test_a_database_that_cannot_be_opened_for_want_of_space_is_not_damaged(
    full, tmp_path, monkeypatch
):
    path = tmp_path / "database.db"
    pycolmap.Database.open(path).close()
    monkeypatch.setattr(pycolmap.Database, "open", fail)
    with pytest.raises(DiskFull, match=r"database\.db: the disk is full"):
        open_database(path)


@pytest.mark.parametrize("is_full", [True, False])
def test_a_model_that_was_cut_short_as_it_was_written_is_the_disk(tmp_path, is_full, request):
    if is_full:
        request.getfixturevalue("full")
    given = dict.fromkeys(("conf", "images", "features", "matches"))
    matched = Matched(record=RunRecord(tmp_path, {}), cameras={}, **given)
    vars(matched)["fingerprint"] = "of nothing"

    def read():
        raise ModelError("sparse: is damaged or cut short")

    error, text = (DiskFull, "the disk is full") if is_full else (ModelError, "sparse: is damaged")
    with pytest.raises(error, match=text):
        matched.once("map", lambda: None, read)
    assert not matched.record.is_done("map", "of nothing")


LEFT = 100 << 10  # bytes: enough to begin a database
MOUNT = 'mount -t tmpfs -o size=8M tmpfs "$1" && cp -r "$2" "$1/out" && '
FILL = 'head -c $(($(df --output=avail -B1 "$1" | tail -1) - $3)) /dev/zero > "$1/fill"; shift 3; '


def test_a_run_on_a_full_disk_ends_in_one_sentence(small_run, tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare to mount a small disk with")
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    mount, kept = tmp_path / "mount", Outputs(tmp_path / "kept")
    mount.mkdir()
    kept.folder.mkdir()
    for name in ("features", "matches", "pairs"):
        shutil.copy(getattr(Outputs(small_run.output), name), kept.folder)
    record = json.loads(Outputs(small_run.output).run_record.read_text())
    kept.run_record.write_text(json.dumps(record | {"done": {}}))
    command = [*CLI, *small_run.arguments(mount / "out")]
    shell = ["unshare", "-rm", "sh", "-ec", MOUNT + FILL + '"$@"', "sh"]
    given = [str(mount), str(kept.folder), str(LEFT)]
    done = subprocess.run([*shell, *given, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"d2-hloc: {mount / 'out'}")
    assert "the disk is full" in last
    assert "Traceback" not in done.stderr
