"""Text files of any content are read, or refused by an error of the package that names them."""

import json
from dataclasses import dataclass

import pytest
from fuzzing import check, damaged
from hypothesis import given
from hypothesis import strategies as st

from d2_hloc.benchmarks.aachen.nvm import read_nvm_poses
from d2_hloc.benchmarks.hpatches.data import read_hpatches
from d2_hloc.benchmarks.inloc.data import read_alignment
from d2_hloc.benchmarks.inloc.lists import read_retrieval
from d2_hloc.benchmarks.relative_pose.data import read_posed_pairs
from d2_hloc.core import config
from d2_hloc.files.result_store import ResultStore
from d2_hloc.files.run_record import RunRecord, read_made_by
from d2_hloc.hloc.commands import read_names
from d2_hloc.matching.pairs import read_pairs
from d2_hloc.sfm.cameras.intrinsics import read_intrinsics
from d2_hloc.sfm.options import Reconstruct
from d2_hloc.sfm.poses_file import read_poses
from d2_hloc.training.history import LOSSES, Table
from d2_hloc.training.scene_info import read_scene_list

IDENTITY = "1 0 0 0 1 0 0 0 1"
YAML = """
extraction: {feature: d2net-ms, resize_max: 800, d2net: {scales: [0.5, 1.0], weights: &w d2_ots}}
matching:
  matcher: nearest
  ratio_threshold: 9.0e-1
pairs: {method: retrieval, count: 3}
intrinsics: null
"""
RECORD = {"configuration": {"a": 1}, "timings": {"x": 1.5}, "done": {"s": [1]}, "counts": {"n": 2}}


@dataclass(frozen=True)
class Result:
    """One of a store."""

    name: str
    numbers: tuple[float, ...] = ()


def store_of(path):
    return ResultStore(path, {"a": 1}, Result, lambda result: result.name, "results")


def hpatches_of(path):
    (path.parent / "i_a").mkdir(exist_ok=True)
    for k in (1, 2):
        (path.parent / "i_a" / f"{k}.png").touch()
    (path.parent / "i_a" / "H_1_2").write_bytes(path.read_bytes())
    return read_hpatches(path.parent)


def alignment_of(path):
    target = path.parent / "database/alignments/F/transformations/DUC_trans_000.txt"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(path.read_bytes())
    try:
        return read_alignment(path.parent, "database/cutouts/F/000/DUC_cutout_000_0_0.jpg")
    finally:
        target.unlink()


ALIGNMENT = "# before\n\n" + "1 0 0 0\n" * 4 + "# after\n1 0 0 5\n0 1 0 -2e-1\n0 0 1 3.5\n0 0 0 1\n"
NVM = "NVM_V3\n\n2\n./a.jpg 900 1 0 0 0 1 2 3 0 0\nb.jpg 9 .6 .8 0 0 1 2 3 0 0\n0\n"
POSED = f"a.jpg b.jpg 0 1 {IDENTITY} {IDENTITY} 1 0 0 1 0 1 0 2 0 0 1 3 0 0 0 1\n"
RETRIEVAL = "query/iphone7/a.JPG database/cutouts/D/0/b.jpg\n"
FRAME = {"file_path": "./images/a.jpg", "fl_x": 500.0, "camera_model": "PINHOLE"}
TRANSFORMS = {"w": 640, "h": 480, "fl_y": 5e2, "cx": 320.5, "k1": 0.0, "frames": [FRAME]}
READERS = {
    "pairs": ("a.jpg b.jpg\n# x\nb/c.jpg a.jpg\n", read_pairs),
    "hloc list": ("a.jpg SIMPLE_RADIAL 640 480 500 320 240 0\nb.jpg\n", read_names),
    "intrinsics": (
        "a.jpg PINHOLE 640 480 500 500 320 240\nb/c.jpg 640 480 5e2 500.0 319.5 239.5 1 0 0 0\n",
        read_intrinsics,
    ),
    "transforms": (json.dumps(TRANSFORMS), read_intrinsics),
    "poses": ("a.jpg 1 0 0 0 1 2 3\nb.jpg PINHOLE .6 .8 0 0 -1e3 2 3\n", read_poses),
    "nvm": (NVM, read_nvm_poses),
    "posed pairs": (POSED, read_posed_pairs),
    "retrieval": (RETRIEVAL, lambda p: read_retrieval(p, 2)),
    "scene list": ("0000\n0001\n", read_scene_list),
    "yaml": (YAML, lambda p: config.load(Reconstruct, p)),
    "run record": (json.dumps(RECORD), lambda p: RunRecord(p.parent, {"a": 1})),
    "made by": (json.dumps(RECORD), read_made_by),
    "results": (
        json.dumps({"configuration": {"a": 1}, "results": [{"name": "q", "numbers": [1.5, 2]}]}),
        store_of,
    ),
    "history": (
        ",".join(LOSSES) + "\n1,0,0.5,2,100,0.001\n2,0,0.25,2,90,1e-4\n",
        lambda p: Table(p, LOSSES).rows(),
    ),
    "homography": ("1 0 0\n0 1e-1 3\n0 0 1\n", hpatches_of),
    "alignment": (ALIGNMENT, alignment_of),
}
NAMES = {
    "transforms": "transforms.json",
    "run record": "run.json",
    "made by": "run.json",
}  # others are called input.txt


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
def test_a_text_of_any_content_is_read_or_refused(tmp_path, kind, data):
    valid, read = READERS[kind]
    path = tmp_path / NAMES.get(kind, "input.txt")
    path.write_bytes(data.draw(damaged(valid.encode(), text=True)))
    check(read, path)


@pytest.mark.parametrize("kind", READERS)
def test_the_text_that_is_changed_is_one_that_reads(tmp_path, kind):
    valid, read = READERS[kind]
    path = tmp_path / NAMES.get(kind, "input.txt")
    path.write_text(valid)
    read(path)


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan"), [], "640", True])
@pytest.mark.parametrize("key", ["w", "fl_x", "cx", "camera_model", "file_path"])
def test_a_frame_that_cannot_be_meant_is_named(tmp_path, key, value):
    path = tmp_path / "transforms.json"
    values = {**TRANSFORMS, "frames": [{**FRAME, key: value}]}
    if (key, value) != ("file_path", "640"):
        path.write_text(json.dumps(values))
        check(read_intrinsics, path)
        with pytest.raises(ValueError, match=r"transforms\.json"):
            read_intrinsics(path)
