"""How commands print: quietly, as JSON, and progress in lines where there is no terminal."""

import io
import json
import logging

import pytest
from tqdm import tqdm

from d2_hloc.app import cli
from d2_hloc.app.command import ProgressLines


def lines(is_quiet: bool) -> str:
    stream = io.StringIO()
    shown = ProgressLines(stream, is_quiet)
    for _ in tqdm(range(3), desc="match", file=shown, mininterval=0):
        pass
    shown.write("skipped a.jpg\n\n")
    return stream.getvalue()


def test_progress_is_lines_where_no_terminal_is():
    *progress, last, end = lines(is_quiet=False).splitlines()
    assert (last, end) == ("skipped a.jpg", "")
    assert len(progress) >= 2
    assert all(line.startswith("match: ") for line in progress)
    assert "3/3" in progress[-1]


def test_quiet_leaves_progress_out_and_warnings_in():
    assert lines(is_quiet=True) == "skipped a.jpg\n\n"


@pytest.fixture(scope="module")
def again(small_run, tmp_path_factory):
    """The same scene, with other options."""
    output = tmp_path_factory.mktemp("again") / "second"
    arguments = [*small_run.arguments(output), "--max-keypoints", "500", "--quiet", "--json"]
    return output, arguments


def test_json_is_the_record_and_quiet_is_quiet(again, capsys):
    output, arguments = again
    assert cli.main(arguments) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads((output / "run.json").read_text())
    assert "match" not in shown.err


def test_runs_are_compared_on_one_page(again, small_run, tmp_path, capsys):
    page = tmp_path / "page.html"
    cli.main(again[1])
    assert cli.main(["compare", str(small_run.output), str(again[0]), "--page", str(page)]) == 0
    shown = page.read_text()
    for text in ("Scores", "registered images", "extraction.d2net.max_keypoints", "second orange"):
        assert text in shown
    assert shown.count("second: ") >= 3  # cameras
    assert cli.main(["compare", str(tmp_path)]) == 1
    assert "run.json: is not the record of a run" in capsys.readouterr().err


def test_verbose_says_where_in_the_code_an_error_came_from(tmp_path, capsys):
    arguments = ["reconstruct", str(tmp_path / "nowhere"), str(tmp_path / "out")]
    assert cli.main(arguments) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main([*arguments, "--verbose"]) == 1
    trace, _, sentence = capsys.readouterr().err.rpartition("\nd2-hloc: ")
    assert "Traceback" in trace
    assert "ImageError" in trace
    assert sentence.count("\n") == 1
    assert logging.getLogger("d2_hloc").level == logging.NOTSET
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--verbose", "--quiet"])
