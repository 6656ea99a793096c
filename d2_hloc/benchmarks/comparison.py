"""Skeleton of all benchmarks: features are evaluated one by one, and then compared.

A benchmark supplies evaluations, numbers, tables and a report; this runs them. One feature is
evaluated in OUT itself, several each in a folder of its own, with the comparison in OUT. More
features may join a comparison later: its record holds what they share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from d2_hloc.features import registry
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.run_record import RunRecord
from d2_hloc.reports.page import Report


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A feature's finished evaluation; the record is that of its folder."""

    feature: str
    record: RunRecord

    @property
    def outputs(self) -> Outputs:
        """Paths of the evaluation's files."""
        return self.record.outputs

    @property
    def skipped(self) -> Mapping[str, str]:
        """Reasons why images, pairs or queries were left out, by name."""
        return {}


E = TypeVar("E", bound=Evaluation)


class Benchmark(ABC, Generic[E]):
    """A data set and the options that features are compared with."""

    @property
    @abstractmethod
    def shared_configuration(self) -> Mapping[str, Any]:
        """Configuration of a comparison, without what its features differ in."""

    @abstractmethod
    def evaluate(self, feature: str, outputs: Outputs) -> E:
        """Run one feature, and write its own files."""

    @abstractmethod
    def counts(self, evaluation: E) -> Mapping[str, Any]:
        """Counts of an evaluation for its record, as plain values."""

    @abstractmethod
    def scores(self, evaluation: E) -> Mapping[str, Any]:
        """Scores of an evaluation for its record, as plain values."""

    @abstractmethod
    def print_tables(self, evaluations: Sequence[E]) -> None:
        """Print what one feature came to, or several beside each other."""

    @abstractmethod
    def make_report(self, evaluations: Sequence[E], outputs: Outputs) -> Report:
        """Make the page of one feature, or of several beside each other."""

    def write_tables(self, evaluations: Sequence[E], outputs: Outputs) -> None:
        """Write tables and pictures for other programs, before the report is made."""

    def run(self, features: Sequence[str], output: Path) -> list[E]:
        """Evaluate one feature in `output`, or several in folders below it, and compare them.

        Raises:
            ConfigurationChanged: if `output` was made with another configuration.
            ValueError: in one sentence that names the file, whatever cannot be used.
        """
        outputs = Outputs(output)
        if len(features) == 1:
            return [self._conclude(features[0], outputs)]
        record = RunRecord(output, dict(self.shared_configuration))
        folders = {name: outputs.of_feature(registry.file_name(name)) for name in features}
        evaluations = [self._conclude(name, folder) for name, folder in folders.items()]
        record.counts = {e.feature: e.record.counts for e in evaluations}
        record.scores = {e.feature: e.record.scores for e in evaluations}
        record.timings = {e.feature: round(sum(e.record.timings.values()), 2) for e in evaluations}
        record.write()
        self._present(evaluations, outputs)
        return evaluations

    def _conclude(self, feature: str, outputs: Outputs) -> E:
        """Evaluate one feature, note its counts and scores in its record, and present it."""
        evaluation = self.evaluate(feature, outputs)
        evaluation.record.counts |= self.counts(evaluation)
        evaluation.record.scores |= self.scores(evaluation)
        evaluation.record.write()
        self._present([evaluation], outputs)
        return evaluation

    def _present(self, evaluations: Sequence[E], outputs: Outputs) -> None:
        """Write tables and report, and print the tables and what was skipped."""
        self.write_tables(evaluations, outputs)
        report = self.make_report(evaluations, outputs).write(outputs.report)
        self.print_tables(evaluations)
        for evaluation in evaluations:
            for name, reason in evaluation.skipped.items():
                print(f"skipped by {evaluation.feature}: {name}: {reason}")
        print(f"\n{report}")
