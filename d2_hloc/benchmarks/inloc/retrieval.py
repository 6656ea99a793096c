"""Which cutouts InLoc's queries are compared with, and the features of those (a step)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from d2_hloc.benchmarks.inloc.data import InLoc, InLocError
from d2_hloc.benchmarks.inloc.lists import Candidate, Ranked, read_retrieval
from d2_hloc.features import registry
from d2_hloc.features.extraction import ExtractionOptions, extract
from d2_hloc.files import features_h5
from d2_hloc.matching import choose_pairs
from d2_hloc.matching.choose_pairs import PairsOptions
from d2_hloc.matching.pairs import write_pairs


def extract_candidates(
    options: ExtractionOptions,
    retrieval: Path | None,
    count: int,
    data: InLoc,
    output: Path,
) -> tuple[Path, Ranked]:
    """Extract the queries and the cutouts that they are compared with; the best `count` of each.

    By the list `retrieval`, and then only the cutouts that it names are extracted. Without one all
    of them are, and ranked by the features' own pooled descriptors; up to `count` cutouts can also
    be compared with by features that pool none, and then stand in the order of their names.

    pairs.txt beside `output` says which they are, best first, to be taken by other features.

    Raises:
        ValueError: if the list cannot be used or names no query of the data set, or the features
            pool no descriptor to retrieve by.
    """
    if retrieval is None:
        return _by_own_descriptors(options, count, data, output)
    listed = read_retrieval(retrieval, count)
    ranked = {query: listed[query] for query in data.queries if query in listed}
    if not ranked:
        raise InLocError(f"{retrieval}: names none of the queries of {data.folder}.")
    # A query that the list leaves out is reported as such.
    ranked |= {query: [] for query in data.queries if query not in listed}
    cutouts = {c.cutout for found in ranked.values() for c in found}
    names = [*data.queries, *sorted(cutouts)]
    features = extract(options, data.folder, output, names).path
    return features, _noted(ranked, output)


def _by_own_descriptors(
    options: ExtractionOptions, count: int, data: InLoc, output: Path
) -> tuple[Path, Ranked]:
    is_pooled = registry.has_global_descriptor(options.feature)
    how = PairsOptions(method="retrieval" if is_pooled else "auto", count=count)
    choose_pairs.check_pairing(
        replace(how, max_exhaustive=count), options.feature, len(data.cutouts)
    )
    features = extract(options, data.folder, output, [*data.queries, *data.cutouts]).path
    queries, cutouts = (features_h5.image_names(features, n) for n in (data.queries, data.cutouts))
    ranked: Ranked = {query: [] for query in data.queries}
    for query, cutout in choose_pairs.of_queries(how, queries, features, cutouts, features):
        ranked[query].append(Candidate(cutout=cutout))
    return features, _noted(ranked, output)


def _noted(ranked: Ranked, features: Path) -> Ranked:
    listed = [(query, c.cutout) for query, found in ranked.items() for c in found]
    write_pairs(features.with_name("pairs.txt"), listed)
    return ranked
