"""Pair lists: read, write, and make them - exhaustive, by retrieval, covisibility or poses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from d2_hloc.core.names import has_space, image_names, shown
from d2_hloc.core.text import numbered_lines
from d2_hloc.files.atomic import write_whole
from d2_hloc.matching.options import Search
from d2_hloc.matching.similar_images import highest, most_similar, similarities

Pair = tuple[str, str]


def read_pairs(path: Path) -> list[Pair]:
    """Pairs from a text file, `name0 name1` a line, with a tab between where names have spaces.

    Raises:
        ValueError: for a file that is missing or empty, or a line that does not hold two names.
        UnsafeName: for a name that leads out of the folder of images.
    """
    pairs = []
    for number, line in numbered_lines(path):
        fields = [f.strip() for f in line.split("\t")] if "\t" in line.strip() else line.split()
        if len(fields) != 2:
            raise ValueError(
                f"{path}, line {number}: expected two names, found {shown(line)}; where names have "
                "spaces, a tab goes between them."
            )
        name0, name1 = image_names(fields, f"{path}, line {number}")
        pairs.append((name0, name1))
    if not pairs:
        raise ValueError(f"{path}: names no pair of images; write 'name0 name1' lines into it.")
    return pairs


def pair_text(pair: Pair) -> str:
    """A pair as lists of pairs and records of failures name it: `name0 name1`.

    A tab is between them where they have spaces. './' goes before a name that would be a comment.
    """
    name0, name1 = pair
    separator = "\t" if has_space(name0) or has_space(name1) else " "
    return separator.join((f"./{name0}" if name0.startswith("#") else name0, name1))


def write_pairs(path: Path, pairs: Iterable[Pair]) -> Path:
    """Write a pair list in hloc's form, whole or not at all; hloc reads names without spaces."""
    write_whole(path, "".join(f"{pair_text(pair)}\n" for pair in pairs).encode())
    return path


def unique(pairs: Iterable[Pair]) -> list[Pair]:
    """Drop repetitions, in either order, and images paired with themselves."""
    found = {}
    for name0, name1 in pairs:
        if name0 != name1 and (name1, name0) not in found:
            found[name0, name1] = None
    return list(found)


def exhaustive(names: Sequence[str]) -> list[Pair]:
    """All pairs of images."""
    return list(combinations(names, 2))


def between(queries: Iterable[str], names: Sequence[str]) -> list[Pair]:
    """Every query with every image."""
    return [(query, name) for query in queries for name in names]


def from_retrieval(
    names: Sequence[str],
    descriptors: np.ndarray,
    count: int,
    query_names: Sequence[str] | None = None,
    query_descriptors: np.ndarray | None = None,
    search: Search = "exact",
) -> list[Pair]:
    """Each query, or each image, with the `count` images whose global descriptors are nearest.

    Descriptors are (N, D). The images' mean is taken off first: what all of them share says
    nothing about which of them show the same place. Images among themselves get the pairs too that
    make one whole of them: groups that only know their own would be models apart.
    """
    mean = descriptors.mean(axis=0)
    database = _unit(descriptors - mean)
    if query_names is not None and query_descriptors is not None:
        queries = _unit(query_descriptors - mean)
        return _nearest_images(query_names, queries, names, database, count, search)
    found = _nearest_images(None, database, names, database, count, search)
    return found + bridges(names, database, found)


def bridges(
    names: Sequence[str], descriptors: Float[np.ndarray, "N D"], pairs: Iterable[Pair]
) -> list[Pair]:
    """The most similar pairs that connect groups of images; the smallest group comes first.

    Descriptors are of unit length.
    """
    index = {name: k for k, name in enumerate(names)}
    ends = np.array([(index[a], index[b]) for a, b in pairs], dtype=int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), tuple(ends.T)), shape=(len(names), len(names)))
    _, groups = connected_components(graph, directed=False)
    found = []
    while groups.max(initial=0) > 0:
        inside = np.flatnonzero(groups == np.bincount(groups).argmin())
        best, i, j = -np.inf, 0, 0
        for rows, scores in similarities(descriptors[inside], descriptors):
            scores[:, inside] = -np.inf
            row, column = divmod(int(scores.argmax()), len(names))
            if scores[row, column] > best:
                best, i, j = float(scores[row, column]), int(inside[rows.start + row]), column
        found.append((names[i], names[j]))
        groups[inside] = groups[j]
        groups = np.unique(groups, return_inverse=True)[1]
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _nearest_images(
    query_names: Sequence[str] | None,
    queries: Float[np.ndarray, "M D"],
    names: Sequence[str],
    database: Float[np.ndarray, "N D"],
    count: int,
    search: Search,
) -> list[Pair]:
    """Each query with the `count` most similar images; each image with others for None."""
    found = most_similar(queries, database, count, query_names is None, search)
    return [
        (query, names[j])
        for query, row in zip(names if query_names is None else query_names, found, strict=True)
        for j in row
    ]


def from_covisibility(model: Any, count: int) -> list[Pair]:
    """Each image of a pycolmap Reconstruction with the `count` that share most points with it."""
    pairs = []
    registered = (model.images[i] for i in model.reg_image_ids())
    for image in sorted(registered, key=lambda i: i.name):
        shared: Counter[int] = Counter()
        for point2D in image.get_observation_points2D():
            track = model.points3D[point2D.point3D_id].track
            shared.update({e.image_id for e in track.elements} - {image.image_id})
        best = sorted(shared, key=lambda i: (-shared[i], model.images[i].name))[:count]
        pairs += [(image.name, model.images[i].name) for i in best]
    return pairs


def from_poses(poses: Mapping[str, Any], count: int, max_angle: float = 45.0) -> list[Pair]:
    """Each image with the `count` whose cameras are nearest, by pycolmap poses (world to camera).

    `max_angle` is the largest angle of the viewing directions, in degrees.
    """
    names = sorted(poses)
    rotations = np.array([poses[n].rotation.matrix() for n in names]).reshape(-1, 3, 3)
    translations = np.array([poses[n].translation for n in names]).reshape(-1, 3)
    centres = -np.einsum("nji,nj->ni", rotations, translations)
    axes = rotations[:, 2]
    scores = -np.linalg.norm(centres[:, None] - centres, axis=2)
    scores[axes @ axes.T < np.cos(np.radians(max_angle))] = -np.inf
    np.fill_diagonal(scores, -np.inf)
    return [
        (name, names[j])
        for name, row in zip(names, scores, strict=True)
        for j in highest(row, count)
    ]


def order_for_reuse(pairs: Sequence[Pair], block: int) -> list[Pair]:
    """Reorder so that a cache of 2 x `block` images serves long runs of pairs."""
    names = dict.fromkeys(name for pair in pairs for name in pair)
    index = {name: k for k, name in enumerate(names)}

    def key(pair: Pair) -> tuple[int, int, int, int]:
        i, j = index[pair[0]], index[pair[1]]
        return i // block, j // block, i, j

    return sorted(pairs, key=key)
