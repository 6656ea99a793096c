"""Queries that have the name of another image."""

import shutil

from d2_hloc.app import cli


def test_queries_named_as_images_of_the_model_are_drawn_by_their_own_pairs(small_run, tmp_path):
    names = sorted(p.name for p in small_run.images.iterdir())
    queries = tmp_path / "queries"
    queries.mkdir()
    shutil.copyfile(small_run.images / names[1], queries / names[0])
    shutil.copyfile(small_run.images / names[0], queries / names[1])
    listed = tmp_path / "pairs.txt"
    listed.write_text(f"{names[0]} {names[1]}\n{names[0]} {names[2]}\n{names[1]} {names[2]}\n")
    arguments = ["localize", small_run.output, queries, tmp_path / "out", "--pairs", listed]
    arguments += ["--refinement", "off", *small_run.intrinsics]
    assert cli.main(list(map(str, arguments))) == 0
    assert len((tmp_path / "out" / "poses.txt").read_text().splitlines()) == 2
    assert (tmp_path / "out" / "report.html").is_file()
