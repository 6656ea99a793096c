"""Scores of HPatches' pairs -> means by kind of sequence, rows, cache file; the paper's curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2_hloc.benchmarks.hpatches import shared_results
from d2_hloc.benchmarks.hpatches.data import KINDS, kind_of
from d2_hloc.benchmarks.hpatches.scores import THRESHOLDS, PairScore
from d2_hloc.benchmarks.hpatches.shared_results import AccuracyCache
from d2_hloc.core import pose_metrics
from d2_hloc.files.atomic import write_atomically

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


def _published(
    feature: str, num_features: float, num_matches: float, accuracy: Sequence[float]
) -> Summary:
    return Summary(
        feature=feature,
        source=PUBLISHED,
        part=OVERALL,
        num_sequences=108,
        num_pairs=540,
        num_features=num_features,
        num_matches=num_matches,
        accuracy=tuple(accuracy),
    )


# Dusmanu et al., CVPR 2019, Figure 4, and the results that its authors publish with it.
PAPER = (
    _published(
        "D2-Net SS",
        2994,
        1183,
        (0.127, 0.277, 0.406, 0.514, 0.600, 0.663, 0.710, 0.744, 0.769, 0.786),
    ),
    _published(
        "D2-Net MS",
        4928,
        1698,
        (0.121, 0.268, 0.398, 0.506, 0.595, 0.664, 0.715, 0.755, 0.786, 0.809),
    ),
    _published(
        "D2-Net SS trained",
        5965,
        2496,
        (0.113, 0.275, 0.430, 0.564, 0.665, 0.734, 0.779, 0.808, 0.828, 0.840),
    ),
    _published(
        "D2-Net MS trained",
        8254,
        2832,
        (0.102, 0.251, 0.400, 0.533, 0.640, 0.719, 0.775, 0.816, 0.844, 0.864),
    ),
)


def summarize(feature: str, scores: Sequence[PairScore]) -> list[Summary]:
    """Means over all pairs, and over those of each kind that is there."""
    found = []
    for part, letters in PARTS.items():
        some = [s for s in scores if s.sequence[0] in letters]
        if some:
            found.append(_mean(feature, part, some))
    return found


def _mean(feature: str, part: str, scores: Sequence[PairScore]) -> Summary:
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


def features_by_image(scores: Iterable[PairScore]) -> dict[str, int]:
    """Number of features of each image, the first of a sequence counted once."""
    counts = {}
    for s in scores:
        counts[s.name0], counts[s.name1] = s.num_features0, s.num_features1
    return counts


def by_sequence(scores: Iterable[PairScore]) -> dict[str, list[PairScore]]:
    """Scores of each sequence, in their order."""
    found: dict[str, list[PairScore]] = {}
    for s in scores:
        found.setdefault(s.sequence, []).append(s)
    return found


def sequence_rows(feature: str, scores: Sequence[PairScore]) -> list[dict[str, str | int | float]]:
    """A row of means for each sequence."""
    rows = []
    for sequence, some in by_sequence(scores).items():
        summary = _mean(feature, kind_of(sequence), some)
        row = {
            "feature": feature,
            "sequence": sequence,
            "kind": summary.part,
            "pairs": summary.num_pairs,
            "features": summary.num_features,
            "matches": summary.num_matches,
        }
        row |= {f"mma_{t}px": a for t, a in zip(SHOWN, summary.accuracy, strict=True)}
        row |= {
            "repeatability": summary.repeatability,
            "matching_score": summary.matching_score,
        }
        corners = zip(CORNER_THRESHOLDS, summary.corner_auc, strict=True)
        rows.append(row | {f"corner_auc_{t:g}px": a for t, a in corners})
    return rows


def write_csv(path: Path, rows: Sequence[dict[str, str | int | float]]) -> Path:
    """Write rows of equal keys under a header, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        short = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow(short)
    write_atomically(path, text.getvalue().encode())
    return path


def to_cache(scores: Sequence[PairScore]) -> AccuracyCache:
    """What other papers share: sums over pairs, by threshold, and counts."""
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
    """The means that a cache file leads to; its features are known for all images only.

    Raises:
        CacheError: if it cannot be used.
    """
    cache, found = shared_results.read(path), []
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
