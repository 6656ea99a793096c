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

from d2_hloc.core.engines import ShardDone
from d2_hloc.features import registry
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.ray import Engine
from d2_hloc.files.run_record import RunRecord
from d2_hloc.files.shards import Shard
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
    """A data set and the options that features are compared with.

    `engine` extracts and matches: a cluster, a shard, or for None this process.
    """

    engine: Engine = None

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
            ShardDone: of a shard, when it is made, of all features.
            ConfigurationChanged: if `output` was made with another configuration.
            ValueError: in one sentence that names the file, whatever cannot be used.
        """
        outputs = Outputs(output)
        if len(features) == 1:
            return [self._conclude(features[0], outputs)]
        record = self.record_of(outputs, self.shared_configuration)
        folders = {name: outputs.of_feature(registry.file_name(name)) for name in features}
        if isinstance(self.engine, Shard):
            self._make_shards(folders)
        evaluations = [self._conclude(name, folder) for name, folder in folders.items()]
        record.counts = {e.feature: e.record.counts for e in evaluations}
        record.scores = {e.feature: e.record.scores for e in evaluations}
        record.timings = {e.feature: round(sum(e.record.timings.values()), 2) for e in evaluations}
        record.write()
        self._present(evaluations, outputs)
        return evaluations

    def record_of(
        self, outputs: Outputs, asked: Mapping[str, Any], further: Sequence[Path] = ()
    ) -> RunRecord:
        """The record of a folder; those who make shards share it."""
        is_shared = isinstance(self.engine, Shard)
        return RunRecord(outputs.folder, dict(asked), further, shared=is_shared)

    def _make_shards(self, folders: Mapping[str, Outputs]) -> None:
        """Make the shards of all features, one after the other."""
        texts = []
        for name, folder in folders.items():
            try:
                self.evaluate(name, folder)
            except ShardDone as done:
                texts.append(str(done))
        raise ShardDone("\n".join(texts))

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
