"""The most similar images of each, by global descriptors: exactly and by blocks, or by FAISS.

FAISS is an optional part, `pip install d2_hloc[faiss]`. Where it is there, it searches among more
than FEW images, exactly too unless 'approximate' is asked for.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from d2_hloc.matching.options import Search

BLOCK_BYTES = 256 << 20  # of similarities at once
FEW = 20_000  # images, among which FAISS gains nothing
PROBED = 32  # lists of an approximate search that are looked at
EXAMPLES = 64  # of each list, that its centre is learned from


def most_similar(
    queries: Float[np.ndarray, "M D"],
    database: Float[np.ndarray, "N D"],
    count: int,
    among_themselves: bool = False,
    search: Search = "exact",
) -> list[list[int]]:
    """Rows of the database with the highest inner products with each query, the highest first.

    There are `count` of each, or as many as there are. `among_themselves`: queries are the
    database, and no row is found by itself.

    Raises:
        ValueError: if 'approximate' is asked for and FAISS is not there.
    """
    is_there = importlib.util.find_spec("faiss") is not None
    if search == "approximate" and not is_there:
        raise ValueError("an approximate search needs FAISS: pip install 'd2_hloc[faiss]'.")
    if search == "approximate" or (is_there and len(database) > FEW):
        found = _by_faiss(queries, database, count + among_themselves, search)
        rows = enumerate(found.tolist())
        return [
            [j for j in row if j >= 0 and not (among_themselves and j == k)][:count]
            for k, row in rows
        ]
    listed = []
    for rows, scores in similarities(queries, database):
        for k, row in enumerate(scores, rows.start):
            if among_themselves:
                row[k] = -np.inf
            listed.append(highest(row, count))
    return listed


def _by_faiss(
    queries: Float[np.ndarray, "M D"],
    database: Float[np.ndarray, "N D"],
    count: int,
    search: Search,
) -> np.ndarray:
    """Indices (M, count), -1 where there are no more."""
    import faiss

    index: Any = faiss.IndexFlatIP(database.shape[1])
    if search == "approximate":
        lists = max(1, min(4 * math.isqrt(len(database)), len(database) // EXAMPLES))
        index = faiss.IndexIVFFlat(index, database.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = PROBED
        index.train(np.ascontiguousarray(database, np.float32))
    index.add(np.ascontiguousarray(database, np.float32))
    return index.search(np.ascontiguousarray(queries, np.float32), min(count, len(database)))[1]


def similarities(
    queries: Float[np.ndarray, "M D"], database: Float[np.ndarray, "N D"]
) -> Iterator[tuple[slice, Float[np.ndarray, "k N"]]]:
    """Inner products of blocks of queries with the database: the whole matrix may not fit."""
    step = max(1, BLOCK_BYTES // (database.itemsize * max(1, len(database))))
    for start in range(0, len(queries), step):
        rows = slice(start, min(start + step, len(queries)))
        yield rows, queries[rows] @ database.T


def highest(scores: Float[np.ndarray, " N"], count: int) -> list[int]:
    """Indices of the `count` highest, the highest first, of equals the first; -inf is never one."""
    least = np.partition(scores, max(0, len(scores) - count))[max(0, len(scores) - count)]
    among = np.flatnonzero((scores >= least) & (scores > -np.inf))
    return among[np.argsort(-scores[among], kind="stable")][:count].tolist()
