"""Runs side by side: d2-hloc compare."""

from __future__ import annotations

import argparse

from d2_hloc.reports.runs import compare_runs


def run_compare(_: None, args: argparse.Namespace) -> None:
    """Run d2-hloc compare."""
    print(compare_runs(args.outputs, args.page))
