"""Files appear whole, through no link, and killed runs leave nothing for ever."""

import pytest

from d2_hloc.files.atomic import empty_folder, mebibytes, write_atomically
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching.pairs import write_pairs


@pytest.mark.parametrize("write", [write_atomically, lambda p, _: write_pairs(p, [("a", "b")])])
def test_a_link_that_waits_is_not_written_through(tmp_path, write):
    mine, target = tmp_path / "mine", tmp_path / "pairs.txt"
    mine.write_bytes(b"mine")
    (tmp_path / "pairs.txt.writing").symlink_to(mine)
    target.symlink_to(mine)
    write(target, b"a b\n")
    assert mine.read_bytes() == b"mine"
    assert not target.is_symlink()
    assert target.read_bytes() == b"a b\n"


def test_what_a_killed_run_left_half_written_is_swept(tmp_path):
    (tmp_path / "report.html.0123abcd.writing").touch()
    (tmp_path / "my.writing").touch()
    RunRecord(tmp_path, {})
    assert not (tmp_path / "report.html.0123abcd.writing").exists()
    assert (tmp_path / "my.writing").exists()


def test_a_link_in_the_place_of_a_folder_goes_alone(tmp_path):
    mine, folder = tmp_path / "mine", tmp_path / "folder"
    mine.mkdir()
    (mine / "a.txt").touch()
    folder.symlink_to(mine)
    assert not list(empty_folder(folder).iterdir())
    assert (mine / "a.txt").exists()


def test_mebibytes_are_rounded_up():
    assert [mebibytes(size) for size in (0, 1, 2**20, 2**20 + 1)] == [0, 1, 1, 2]
