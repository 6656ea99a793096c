"""Tables in the terminal: columns stand below each other, numbers to the right."""

import numpy as np
import pytest

from d2_hloc.reports.terminal import print_table, text_table


def test_numbers_stand_to_the_right_and_names_to_the_left():
    rows = [("registered images", "11 of 11"), ("points", 14158), ("track length", 4.76061)]
    assert text_table(rows).splitlines() == [
        "registered images  11 of 11",
        "points                14158",
        "track length          4.761",
    ]


def test_columns_have_a_header():
    rows = [("a.jpg", 7, None, "no points"), ("longer.jpg", 123, np.float32(1.5), "")]
    assert text_table(rows, columns=("query", "inliers", "error, mm", "why not")).splitlines() == [
        "query       inliers  error, mm  why not",
        "a.jpg             7          -  no points",
        "longer.jpg      123      1.500",
    ]


def test_rows_may_be_dictionaries_with_gaps():
    lines = text_table([{"a": 1}, {"a": 22, "b": float("nan")}]).splitlines()
    assert lines == [" a  b", " 1  -", "22  -"]


def test_a_table_may_have_no_rows(capsys):
    assert text_table([], columns=("query", "inliers")) == "query  inliers"
    print_table([])
    assert capsys.readouterr().out == "\n\n"


def test_says_which_row_is_ragged():
    with pytest.raises(ValueError, match="row 1 has 1 cells instead of 2"):
        text_table([(1, 2), (3,)])
