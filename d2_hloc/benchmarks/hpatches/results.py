"""Means of the scores by kind of sequence, rows of tables, and the paper's curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2_hloc.benchmarks.hpatches.data import KINDS, kind_of
from d2_hloc.benchmarks.hpatches.scores import THRESHOLDS, HomographyScore
from d2_hloc.benchmarks.hpatches.shared_results import AccuracyCache, read_accuracy_cache
from d2_hloc.core import pose_metrics

SHOWN = tuple(range(1, 11))  # pixels, as in the paper's Figure 4
TABLED = (1, 2, 3, 5, 10)
CORNER_THRESHOLDS = (1.0, 3.0, 5.0)  # pixels
OVERALL = "overall"
PARTS = {OVERALL: "iv", "illumination": "i", "viewpoint": "v"}  # letters of the sequences in each

MEASURED, PUBLISHED = "measured", "published"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Means over the pairs of one part of the data set. None is not known."""

    feature: str
    source: str  # MEASURED, PUBLISHED, or the file it comes from
    part: str  # of PARTS
    num_sequences: int | None
    num_pairs: int
    num_features: float | None  # an image
    num_matches: float | None  # a pair
    accuracy: tuple[float, ...]  # at SHOWN
    repeatability: float | None = None
    matching_score: float | None = None
    corner_auc: tuple[float, ...] | None = None  # at CORNER_THRESHOLDS

    @property
    def values(self) -> dict[str, float | int | None]:
        """Means by names that say the threshold."""
        areas = self.corner_auc or [None] * len(CORNER_THRESHOLDS)
        return {
            "pairs": self.num_pairs,
            "features": self.num_features,
            "matches": self.num_matches,
            **{f"mma_{t}px": a for t, a in zip(SHOWN, self.accuracy, strict=True)},
            "repeatability": self.repeatability,
            "matching_score": self.matching_score,
            **{f"corner_auc_{t:g}px": a for t, a in zip(CORNER_THRESHOLDS, areas, strict=True)},
        }


def _published(feature: str, num_features: float, num_matches: float, accuracy: str) -> Summary:
    return Summary(
        feature=feature,
        source=PUBLISHED,
        part=OVERALL,
        num_sequences=108,
        num_pairs=540,
        num_features=num_features,
        num_matches=num_matches,
        accuracy=tuple(map(float, accuracy.split())),
    )


# Dusmanu et al., CVPR 2019, Figure 4, and the results that its authors publish with it.
PAPER = (
    _published("D2-Net SS", 2994, 1183, ".127 .277 .406 .514 .600 .663 .710 .744 .769 .786"),
    _published("D2-Net MS", 4928, 1698, ".121 .268 .398 .506 .595 .664 .715 .755 .786 .809"),
    _published(
        "D2-Net SS trained", 5965, 2496, ".113 .275 .430 .564 .665 .734 .779 .808 .828 .840"
    ),
    _published(
        "D2-Net MS trained", 8254, 2832, ".102 .251 .400 .533 .640 .719 .775 .816 .844 .864"
    ),
)


def means_by_part(feature: str, scores: Sequence[HomographyScore]) -> list[Summary]:
    """Average over all pairs, and over those of each kind that is there."""
    found = []
    for part, letters in PARTS.items():
        some = [s for s in scores if s.sequence[0] in letters]
        if some:
            found.append(_mean(feature, part, some))
    return found


def _mean(feature: str, part: str, scores: Sequence[HomographyScore]) -> Summary:
    errors = [np.inf if s.corner_error is None else s.corner_error for s in scores]
    accuracy = np.mean([s.accuracy[: len(SHOWN)] for s in scores], axis=0)
    return Summary(
        feature=feature,
        source=MEASURED,
        part=part,
        num_sequences=len({s.sequence for s in scores}),
        num_pairs=len(scores),
        num_features=float(np.mean(list(features_by_image(scores).values()))),
        num_matches=float(np.mean([s.num_matches for s in scores])),
        accuracy=tuple(accuracy.tolist()),
        repeatability=float(np.mean([s.repeatability for s in scores])),
        matching_score=float(np.mean([s.matching_score for s in scores])),
        corner_auc=tuple(pose_metrics.error_auc(errors, CORNER_THRESHOLDS)),
    )


def features_by_image(scores: Iterable[HomographyScore]) -> dict[str, int]:
    """Count the features of each image, the first of a sequence once."""
    counts = {}
    for s in scores:
        counts[s.name0], counts[s.name1] = s.num_features0, s.num_features1
    return counts


def by_sequence(scores: Iterable[HomographyScore]) -> dict[str, list[HomographyScore]]:
    """Group the scores by sequence, in their order."""
    found: dict[str, list[HomographyScore]] = {}
    for s in scores:
        found.setdefault(s.sequence, []).append(s)
    return found


def sequence_rows(feature: str, scores: Sequence[HomographyScore]) -> list[dict[str, Any]]:
    """Make a row of means for each sequence."""
    rows = []
    for sequence, some in by_sequence(scores).items():
        mean = _mean(feature, kind_of(sequence), some)
        rows.append({"feature": feature, "sequence": sequence, "kind": mean.part, **mean.values})
    return rows


def to_cache(scores: Sequence[HomographyScore]) -> AccuracyCache:
    """Sum over pairs, by threshold, and count, as other papers share their results."""
    sums = {
        letter: np.sum([s.accuracy for s in scores if s.sequence[0] == letter], axis=0)
        * np.ones(len(THRESHOLDS))
        for letter in KINDS
    }
    return AccuracyCache(
        illumination=dict(zip(THRESHOLDS, sums["i"].tolist(), strict=True)),
        viewpoint=dict(zip(THRESHOLDS, sums["v"].tolist(), strict=True)),
        kinds=[s.sequence[0] for s in scores],
        num_features=list(features_by_image(scores).values()),
        num_matches=[s.num_matches for s in scores],
    )


def read_summaries(path: Path) -> list[Summary]:
    """Read the means that a cache file leads to; its features are known for all images only.

    Raises:
        CacheError: if it cannot be used.
    """
    cache, found = read_accuracy_cache(path), []
    for part, letters in PARTS.items():
        pairs = zip(cache.num_matches, cache.kinds, strict=True)
        matches = [count for count, kind in pairs if kind in letters]
        if matches:
            features = float(np.mean(cache.num_features)) if part == OVERALL else None
            summary = Summary(
                feature=path.stem,
                source=path.name,
                part=part,
                num_sequences=None,
                num_pairs=len(matches),
                num_features=features,
                num_matches=float(np.mean(matches)),
                accuracy=tuple(cache.accuracy(letters, SHOWN)),
            )
            found.append(summary)
    return found
