"""Skeleton of the benchmarks, on one that counts letters: folders, records, tables, later joins."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from scripts import BENCHMARKS, load

from d2_hloc.benchmarks.arguments import (
    BenchmarkArguments,
    load_options,
    split_matcher,
)
from d2_hloc.benchmarks.comparison import Benchmark, Evaluation
from d2_hloc.benchmarks.hpatches.run import HPatches
from d2_hloc.core import config
from d2_hloc.core.config import ConfigError
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Letters(Evaluation):
    count: int

    @property
    def skipped(self):
        return {"q": "it is rare"} if self.count > 3 else {}


@dataclass(frozen=True, kw_only=True)
class LetterBenchmark(Benchmark[Letters]):
    option: int = 1

    @property
    def shared_configuration(self):
        return {"option": self.option}

    def evaluate(self, feature, outputs):
        record = RunRecord(outputs.folder, {"option": self.option, "feature": feature})
        with record.timed("count"):
            return Letters(feature=feature, record=record, count=len(feature))

    def counts(self, evaluation):
        return {"letters": evaluation.count}

    def scores(self, evaluation):
        return {"score": evaluation.count / 2}

    def print_tables(self, evaluations):
        print_table([{"feature": e.feature, "letters": e.count} for e in evaluations])

    def write_tables(self, evaluations, outputs):
        (outputs.folder / "table.txt").write_text(" ".join(e.feature for e in evaluations))

    def make_report(self, evaluations, outputs):
        assert (outputs.folder / "table.txt").is_file()  # pictures are there for the report
        return Report("Letters", subtitle=", ".join(e.feature for e in evaluations))


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_one_feature_is_evaluated_in_the_folder_itself(tmp_path, capsys):
    (found,) = LetterBenchmark().run(["sift"], tmp_path)
    assert found.count == 4
    assert record(tmp_path)["counts"] == {"letters": 4}
    assert record(tmp_path)["scores"] == {"score": 2.0}
    printed = capsys.readouterr().out
    assert "skipped by sift: q: it is rare" in printed
    assert printed.endswith(f"\n{tmp_path / 'report.html'}\n")


def test_several_have_folders_of_their_own_and_a_record_of_all(tmp_path, capsys):
    LetterBenchmark().run(["a", "hloc:abc"], tmp_path)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"a", "hloc-abc"}
    found = record(tmp_path)
    assert found["configuration"] == {"option": 1}
    assert found["counts"] == {"a": {"letters": 1}, "hloc:abc": {"letters": 8}}
    assert found["scores"]["a"] == record(tmp_path / "a")["scores"]
    assert set(found["timings"]) == {"a", "hloc:abc"}
    assert (tmp_path / "table.txt").read_text() == "a hloc:abc"
    assert (tmp_path / "a" / "table.txt").read_text() == "a"
    assert "a, hloc:abc" in (tmp_path / "report.html").read_text()


def test_a_feature_may_join_later_and_another_option_may_not(tmp_path):
    LetterBenchmark().run(["a", "b"], tmp_path)
    LetterBenchmark().run(["a", "b", "c"], tmp_path)
    assert list(record(tmp_path)["scores"]) == ["a", "b", "c"]
    with pytest.raises(ConfigurationChanged, match=r'There: {"option": 1}. Now: {"option": 2}'):
        LetterBenchmark(option=2).run(["a", "b"], tmp_path)


def options(*given):
    wanted = BenchmarkArguments("A test.\n\nMore.", HPatches, ROOT / "configs" / "hpatches.yaml")
    wanted.option("--refinement", "refinement.enabled")
    wanted.matcher()
    return load_options(HPatches, wanted.parse(["--output", "out", *given]))


def test_arguments_win_over_the_yaml():
    assert options() == HPatches()
    found = options("--feature", "sift", "d2net", "sift", "--refinement", "off")
    assert found.features == ("sift", "d2net")
    assert not found.refinement.enabled
    assert found.refinement.coarse_window == HPatches().refinement.coarse_window


def test_every_option_is_an_argument_with_the_defaults_of_the_yaml(capsys):
    found = options("--scoring.ransac-error", "2", "--extraction.d2net.position", "released")
    assert found.scoring.ransac_error == 2
    assert found.extraction.d2net.position == "released"
    with pytest.raises(SystemExit):
        options("--help-all")
    shown = " ".join(capsys.readouterr().out.split())
    assert "--refinement.coarse-window N radius that it is looked for in" in shown
    assert "[1 to 50] (5)" in shown


@pytest.mark.parametrize("name", BENCHMARKS)
def test_refinement_is_on_in_every_pipeline_as_in_every_command(name):
    pipeline = load(name)
    cls = getattr(pipeline, BENCHMARKS[name])
    conf = config.load(cls, pipeline.CONFIG)
    assert conf.refinement.enabled
    assert cls().refinement.enabled
    assert cls().refinement == conf.refinement


def test_a_yaml_that_does_not_fit_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("feature: sift\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: unknown key 'feature'"):
        options("--config", str(tmp_path / "a.yaml"))


def test_a_name_may_end_in_its_matcher():
    rule = MatchingOptions(ratio_threshold=0.9)
    assert split_matcher("sift", rule) == ("sift", rule)
    assert split_matcher("aliked+lightglue", rule) == (
        "aliked",
        MatchingOptions(matcher="lightglue"),
    )
    assert split_matcher("d2net+nearest", rule) == ("d2net", rule)
    assert split_matcher("hloc:a+b", rule) == ("hloc:a+b", rule)


def test_the_matcher_of_the_command_is_of_names_without_one():
    conf = options("--feature", "d2net", "sift+nearest", "--matcher", "lightglue")
    assert conf.features == ("d2net+lightglue", "sift+nearest")
