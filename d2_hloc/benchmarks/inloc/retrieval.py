"""Rank the cutouts that InLoc's queries are compared with, and extract features (a step)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from d2_hloc.benchmarks.inloc.data import InLocData, InLocError
from d2_hloc.benchmarks.inloc.lists import Candidate, Ranked, read_retrieval
from d2_hloc.features import registry
from d2_hloc.features.extracted import Extracted
from d2_hloc.features.on_cluster import extract_on
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.ray import Engine
from d2_hloc.matching import choose_pairs
from d2_hloc.matching.options import PairsOptions
from d2_hloc.matching.pairs import write_pairs


def extract_candidates(
    options: ExtractionOptions,
    retrieval: Path | None,
    count: int,
    data: InLocData,
    outputs: Outputs,
    engine: Engine = None,
) -> tuple[Extracted, Ranked]:
    """Extract the queries and the best `count` cutouts that each is compared with.

    The list `retrieval` says which those are, and then only the cutouts that it names are
    extracted. Without one all of them are, and ranked by the features' own pooled descriptors; up
    to `count` cutouts can also be compared with by features that pool none, and then stand in the
    order of their names.

    Raises:
        ValueError: if the list cannot be used or names no query of the data set, or the features
            pool no descriptor to retrieve by.
    """
    if retrieval is None:
        return _by_own_descriptors(options, count, data, outputs, engine)
    listed = read_retrieval(retrieval, count)
    ranked = {query: listed[query] for query in data.queries if query in listed}
    if not ranked:
        raise InLocError(f"{retrieval}: names none of the queries of {data.folder}.")
    # A query that the list leaves out is reported as such.
    ranked |= {query: [] for query in data.queries if query not in listed}
    cutouts = {c.cutout for found in ranked.values() for c in found}
    names = [*data.queries, *sorted(cutouts)]
    features = extract_on(engine, options, data.folder, outputs.features, names)
    return features, ranked


def _by_own_descriptors(
    options: ExtractionOptions, count: int, data: InLocData, outputs: Outputs, engine: Engine
) -> tuple[Extracted, Ranked]:
    is_pooled = registry.has_global_descriptor(options.feature)
    how = PairsOptions(method="retrieval" if is_pooled else "auto", count=count)
    choose_pairs.check_pairing(
        replace(how, max_exhaustive=count), options.feature, len(data.cutouts)
    )
    names = [*data.queries, *data.cutouts]
    features = extract_on(engine, options, data.folder, outputs.features, names)
    known = set(features.names)
    queries, cutouts = (
        [n for n in all_of if n in known] for all_of in (data.queries, data.cutouts)
    )
    ranked: Ranked = {query: [] for query in data.queries}
    path = features.path
    for query, cutout in choose_pairs.of_queries(how, queries, path, cutouts, path):
        ranked[query].append(Candidate(cutout=cutout))
    return features, ranked


def write_candidates(ranked: Ranked, path: Path) -> None:
    """Write which cutouts each query is compared with, best first, as other features take them."""
    write_pairs(path, [(query, c.cutout) for query, found in ranked.items() for c in found])
