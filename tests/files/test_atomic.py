"""Files appear whole, through no link, and killed runs leave nothing for ever."""

import pytest

from d2_hloc.files.atomic import (
    clear_unfinished_of,
    empty_folder,
    mebibytes,
    refuse_links,
    replace_folder,
    write_atomically,
)
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


def test_the_sweep_of_some_files_leaves_all_others(tmp_path):
    names = ("a.h5.0123abcd.writing", "b.h5.0123abcd.writing", "a.h5.writing", "a.h5")
    for name in (*names, "a.h5.0123abcd.writing-wal"):
        (tmp_path / name).touch()
    clear_unfinished_of([tmp_path / "a.h5", tmp_path / "nowhere" / "c.h5"])
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])


def test_a_link_in_the_place_of_a_folder_is_replaced(tmp_path):
    mine, made, target = (tmp_path / name for name in ("mine", "made", "target"))
    for folder in (mine, made):
        folder.mkdir()
        (folder / folder.name).touch()
    target.symlink_to(mine)
    replace_folder(made, target)
    assert [path.name for path in target.iterdir()] == ["made"]
    assert (mine / "mine").exists()


def test_a_link_below_a_folder_is_named(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    refuse_links(tmp_path)
    refuse_links(tmp_path / "nowhere")
    (tmp_path / "a" / "b" / "c").symlink_to("nowhere")
    with pytest.raises(ValueError, match="a/b/c: is a link"):
        refuse_links(tmp_path)


def test_a_link_in_the_place_of_a_folder_goes_alone(tmp_path):
    mine, folder = tmp_path / "mine", tmp_path / "folder"
    mine.mkdir()
    (mine / "a.txt").touch()
    folder.symlink_to(mine)
    assert not list(empty_folder(folder).iterdir())
    assert (mine / "a.txt").exists()


def test_mebibytes_are_rounded_up():
    assert [mebibytes(size) for size in (0, 1, 2**20, 2**20 + 1)] == [0, 1, 1, 2]
