"""Exact nearest neighbours of two sets of descriptors, in both directions.

On a CPU, similarities are computed in the fastest precision there is. It narrows each descriptor's
neighbours down to a few candidates, by a bound on its error, and float32 decides among these: the
neighbours found are those of float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from d2_hloc.matching.prepared import PreparedDescriptors

BLOCK_BYTES = 128 << 20  # of similarities at once
CACHED_BYTES = 4 << 20  # the same, to stay in a CPU's cache
MOST_CANDIDATES = 64  # for each descriptor, on average; of more, all similarities are exact
CHUNK = 1024  # candidates whose descriptors are multiplied at once, to stay in the cache

Cells = tuple[np.ndarray, np.ndarray]  # rows, columns


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Most similar column of each row, its similarity, and the next best similarity.

    Of equal columns the first is taken.
    """

    indices: Int[Tensor, " N"]
    first: Float[Tensor, " N"]
    second: Float[Tensor, " N"]  # -inf where there is no second, or none was asked for


def nearest_neighbours(
    set0: PreparedDescriptors, set1: PreparedDescriptors, with_second: bool = True
) -> tuple[Neighbours, Neighbours]:
    """Neighbours of 0 in 1 and of 1 in 0; none of the two sets is empty. Memory is bounded."""
    count = 2 if with_second else 1
    found = _candidates(set0, set1, count) if set0.exact.device.type == "cpu" else None
    if found is None:
        return _nearest_of_all(set0.exact, set1.exact)
    (rows, columns), (rows1, columns1) = found
    values = _similarities(set0, set1, rows, columns)
    values1 = _similarities(set0, set1, rows1, columns1)
    return (
        _best_of(rows, columns, values, len(set0), count),
        _best_of(columns1, rows1, values1, len(set1), count),
    )


def _candidates(
    set0: PreparedDescriptors, set1: PreparedDescriptors, count: int
) -> tuple[Cells, Cells] | None:
    """Cells that can be among the `count` highest of their row, and those of their column.

    None where there are very many, as of descriptors that are all alike, or a number is no number.
    """
    margin = np.float32(2 * set0.error_bound(set1))
    if not np.isfinite(margin):
        return None
    step = max(1, CACHED_BYTES // (4 * len(set1)))
    most = MOST_CANDIDATES * (len(set0) + len(set1))
    highest = np.full((count, len(set1)), -np.inf, np.float32)  # of each column, so far
    by_row, by_column = [], []
    for start in range(0, len(set0), step):
        block = (set0.coarse[start : start + step] @ set1.coarse.T).float().numpy()
        rows, columns = _at_least(block, _highest(block, 1, count)[-1][:, None] - margin)
        by_row.append((rows + start, columns))
        highest = np.sort(np.concatenate([_highest(block, 0, count), highest]), axis=0)[-count:]
        highest = highest[::-1]
        rows, columns = _at_least(block, highest[-1] - margin)
        by_column.append((rows + start, columns, block[rows, columns]))
        most -= len(by_row[-1][0]) + len(rows)
        if most < 0:
            return None
    rows, columns, values = (np.concatenate(part) for part in zip(*by_column, strict=True))
    is_high = values >= highest[-1][columns] - margin  # of all rows, not only of those before
    by_rows = [np.concatenate(part) for part in zip(*by_row, strict=True)]
    return (by_rows[0], by_rows[1]), (rows[is_high], columns[is_high])


def _highest(block: np.ndarray, axis: int, count: int) -> np.ndarray:
    """The one or two highest along an axis (count, N), the highest first."""
    first = block.max(axis=axis, keepdims=True)
    if count == 1:
        return first.reshape(1, -1)
    cells = _at_least(block, first)
    values = block[cells]
    block[cells] = -np.inf  # hidden for a moment
    second = block.max(axis=axis)
    block[cells] = values
    first = first.reshape(-1)
    is_twice = np.bincount(cells[1 - axis], minlength=len(first)) > 1
    return np.stack([first, np.where(is_twice, first, second)])


def _at_least(block: np.ndarray, thresholds: np.ndarray) -> Cells:
    """Cells that reach their threshold. torch takes ten times as long as NumPy for this."""
    rows, columns = np.divmod(np.flatnonzero(block >= thresholds), block.shape[1])
    return rows, columns


def _similarities(
    set0: PreparedDescriptors, set1: PreparedDescriptors, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Similarities of cells, in float32."""
    parts = zip(
        torch.from_numpy(rows).split(CHUNK), torch.from_numpy(columns).split(CHUNK), strict=True
    )
    return torch.cat([torch.linalg.vecdot(set0.exact[i], set1.exact[j]) for i, j in parts]).numpy()


def _best_of(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, num_rows: int, count: int
) -> Neighbours:
    """The best of the candidates of each row; every row has at least `count`, or all there are."""
    order = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    first = np.searchsorted(rows, np.arange(num_rows))
    second = np.full(num_rows, -np.inf, np.float32)
    if count == 2:
        following = np.minimum(first + 1, len(rows) - 1)
        is_there = (following > first) & (rows[following] == np.arange(num_rows))
        second[is_there] = values[following[is_there]]
    return Neighbours(
        indices=torch.from_numpy(columns[first]),
        first=torch.from_numpy(values[first]),
        second=torch.from_numpy(second),
    )


def _nearest_of_all(
    descriptors0: Float[Tensor, "N0 D"], descriptors1: Float[Tensor, "N1 D"]
) -> tuple[Neighbours, Neighbours]:
    """Nearest neighbours from all similarities in float32, in blocks of rows."""
    rows = max(1, BLOCK_BYTES // (4 * len(descriptors1)))
    forward = []

    def blocks() -> Iterator[Neighbours]:
        for start in range(0, len(descriptors0), rows):
            similarities = descriptors0[start : start + rows] @ descriptors1.T
            forward.append(_two_best(similarities, dim=1, offset=0))
            yield _two_best(similarities, dim=0, offset=start)

    backward = reduce(_better, blocks())
    return (
        Neighbours(
            indices=torch.cat([n.indices for n in forward]),
            first=torch.cat([n.first for n in forward]),
            second=torch.cat([n.second for n in forward]),
        ),
        backward,
    )


def _two_best(similarities: Float[Tensor, "R C"], dim: int, offset: int) -> Neighbours:
    """The two highest along `dim`. topk is far slower; the highest is hidden for a moment."""
    first, indices = similarities.max(dim=dim)
    where = indices.unsqueeze(dim)
    similarities.scatter_(dim, where, float("-inf"))
    second = similarities.amax(dim=dim)
    similarities.scatter_(dim, where, first.unsqueeze(dim))
    return Neighbours(indices=indices + offset, first=first, second=second)


def _better(old: Neighbours, new: Neighbours) -> Neighbours:
    """The two best of both; the earlier one of equals, as an argmax over all would take."""
    is_new = new.first > old.first
    return Neighbours(
        indices=torch.where(is_new, new.indices, old.indices),
        first=torch.maximum(old.first, new.first),
        second=torch.maximum(
            torch.minimum(old.first, new.first), torch.where(is_new, new.second, old.second)
        ),
    )
