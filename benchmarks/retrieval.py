"""Measure how well global descriptors find images of a place among others and distractors.

    python benchmarks/retrieval.py PLACE=FEATURES.h5 ... [--distractors FEATURES.h5]

Every image of a place asks for its nearest; those of the same place are right. Files of one place
may be named twice (PLACE=A.h5 PLACE=B.h5). Half of the distractors teach the whitening, the other
half are there to be confused with.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from d2_hloc.files import features_h5
from d2_hloc.matching.pairs import from_retrieval, unique

Descriptors = Float[np.ndarray, "N D"]
SHRINKAGE = 0.5  # of the covariance towards its mean variance


def read(path: Path) -> Descriptors:
    """Global descriptors of a features file."""
    return features_h5.read_global_descriptors(path, features_h5.extracted_names(path))


def variants(taught: Descriptors) -> dict[str, Callable[[Descriptors], Descriptors]]:
    """Changes of descriptors before they are compared, by name."""
    found: dict[str, Callable[[Descriptors], Descriptors]] = {
        "as they are": lambda x: x,
        "without the images' own mean (the package's)": lambda x: x - x.mean(axis=0),
    }
    if len(taught) > 1:
        mean, covariance = taught.mean(axis=0), np.cov(taught.T)
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values, 0)
        scale = ((1 - SHRINKAGE) * values + SHRINKAGE * values.mean()) ** -0.5
        whitening = vectors * scale @ vectors.T
        found["without the distractors' mean"] = lambda x: x - mean
        found["whitened by the distractors"] = lambda x: (x - mean) @ whitening
    return found


def measure(descriptors: Descriptors, places: np.ndarray) -> dict[str, tuple[float, float]]:
    """Recall of the first image and mean average precision, by place."""
    unit = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    order = np.argsort(-scores, axis=1)[:, :-1]
    is_right = places[order] == places[:, None]
    ranks = np.arange(1, order.shape[1] + 1)
    precision = np.cumsum(is_right, axis=1) / ranks
    average = (precision * is_right).sum(axis=1) / np.maximum(is_right.sum(axis=1), 1)
    return {
        str(place): (
            float(is_right[places == place, 0].mean()),
            float(average[places == place].mean()),
        )
        for place in dict.fromkeys(places.tolist())
        if place
    }


def main() -> None:
    """Print a line a variant, and how many pairs a count of neighbours makes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", nargs="+", metavar="PLACE=FEATURES.h5")
    parser.add_argument("--distractors", type=Path)
    args = parser.parse_args()
    named = [text.split("=", 1) for text in args.places]
    parts, places = [read(Path(path)) for _, path in named], []
    for (place, _), part in zip(named, parts, strict=True):
        places += [place] * len(part)
    others = read(args.distractors) if args.distractors else np.empty((0, parts[0].shape[1]))
    taught, confusing = others[: len(others) // 2], others[len(others) // 2 :]
    everyone = np.concatenate([*parts, confusing])
    labels = np.array(places + [""] * len(confusing))
    for name, change in variants(taught).items():
        found = measure(change(everyone), labels)
        cells = ", ".join(
            f"{place} {first:.2f} / {mean:.3f}" for place, (first, mean) in found.items()
        )
        print(f"{name}: first right / mean average precision: {cells}")
    for (place, path), part in zip(named, parts, strict=True):
        names = features_h5.extracted_names(Path(path))
        for count in (1, 2, 3):
            pairs = len(unique(from_retrieval(names, part, count)))
            share = pairs / max(1, len(names) * (len(names) - 1) / 2)
            print(f"{place}: the nearest {count} make {pairs} pairs, {share:.2f} of all")


if __name__ == "__main__":
    main()
