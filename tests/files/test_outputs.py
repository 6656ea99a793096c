"""The names of a run's files: each is there once."""

from pathlib import Path

import pytest

from d2_hloc.files.outputs import Inside, Outputs

OUTPUT = Outputs(Path("out"))
NAMES = {key: value.name for key, value in vars(Outputs).items() if isinstance(value, Inside)}


def test_paths_are_in_the_folder():
    assert OUTPUT.features == Path("out/features.h5")
    assert OUTPUT.depth_map("a/b.jpg", "geometric") == Path(
        "out/stereo/depth_maps/a/b.jpg.geometric.bin"
    )
    assert OUTPUT.submission("d2net") == Path("out/Aachen_eval_[d2net].txt")


def test_no_two_attributes_are_one_path():
    assert len(set(NAMES.values())) == len(NAMES)


@pytest.mark.parametrize("named", ["out", "out/sparse"])
def test_a_model_is_named_by_its_run_or_by_colmaps_folder(tmp_path, named):
    (tmp_path / "out" / "sparse").mkdir(parents=True)
    assert Outputs.of_model(tmp_path / named) == Outputs(tmp_path / "out")


def test_a_run_in_a_folder_called_sparse_is_itself(tmp_path):
    (tmp_path / "sparse" / "sparse").mkdir(parents=True)
    assert Outputs.of_model(tmp_path / "sparse") == Outputs(tmp_path / "sparse")
