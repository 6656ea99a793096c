"""Every reader of names refuses those that lead out of the folder, and says in which file."""

import re

import h5py
import numpy as np
import pytest
import scipy.io

from d2_hloc.benchmarks.aachen import nvm
from d2_hloc.benchmarks.inloc.lists import read_list, read_retrieval
from d2_hloc.benchmarks.relative_pose.data import read_posed_pairs
from d2_hloc.core.names import UnsafeName
from d2_hloc.files import features_h5
from d2_hloc.hloc.commands import read_names
from d2_hloc.matching.pairs import read_pairs
from d2_hloc.sfm.cameras.intrinsics import read_intrinsics

BAD = "../../evil.jpg"
CAMERA = "PINHOLE 640 480 500 500 320 240"
IDENTITY = "1 0 0 0 1 0 0 0 1"


def text_of(line):
    return lambda path: path.write_text(f"# a comment\n{line}\n")


def mat_of(**values):
    return lambda path: scipy.io.savemat(path, values)


def write_scores(path):
    scipy.io.savemat(path, {"score": np.array([[1.0, 2.0]])})
    scipy.io.savemat(path.with_name("query_imgnames_all.mat"), {"query_imgnames_all": "q.jpg"})
    names = np.array(["a.jpg", BAD], dtype=object)
    scipy.io.savemat(path.with_name("cutout_imgnames_all.mat"), {"cutout_imgnames_all": names})


def write_features(path):
    with h5py.File(path, "w") as file:
        file[f"{BAD}/keypoints"] = np.zeros((0, 2))


ENTRY = {"queryname": "q.jpg", "topNname": np.array(["a.jpg"], dtype=object), "topNscore": 0.5}


@pytest.mark.parametrize(
    ("name", "write", "read"),
    [
        ("pairs.txt", text_of(f"a.jpg {BAD}"), read_pairs),
        ("cameras.txt", text_of(f"{BAD} {CAMERA}"), read_intrinsics),
        ("list.txt", text_of(f"{BAD} {CAMERA}"), read_names),
        ("model.nvm", text_of(f"NVM_V3\n1\n{BAD} 900 1 0 0 0 1 2 3 0 0"), nvm.read_nvm_poses),
        ("posed.txt", text_of(f"a {BAD} 0 0 {IDENTITY} {IDENTITY} {'1 ' * 16}"), read_posed_pairs),
        ("List.mat", mat_of(ImgList=ENTRY | {"queryname": BAD}), read_list),
        ("List.mat", mat_of(ImgList=ENTRY | {"topNname": BAD}), read_list),
        ("score.mat", write_scores, lambda path: read_retrieval(path, 2)),
        ("features.h5", write_features, features_h5.extracted_names),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name, write, read):
    path = tmp_path / name
    write(path)
    with pytest.raises(UnsafeName, match=re.escape(f"'{BAD}' leads out")) as error:
        read(path)
    assert str(error.value).startswith(str(path))
    if write.__qualname__.startswith("text_of"):
        assert re.search(r", line \d:", str(error.value))
