"""Tracks: keypoints of several images that verified matches join, at most one of each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from d2_hloc.matching.pairs import Pair


@dataclass(frozen=True, kw_only=True)
class PairMatches:
    """Verified matches of one pair of images."""

    pairs: np.ndarray  # (K, 2) keypoint indices
    scores: np.ndarray  # (K,) similarity, higher is better


def matches_between(verified: Mapping[Pair, PairMatches], name0: str, name1: str) -> np.ndarray:
    """Matches (K, 2) of two images, in whichever order they are there; none for another pair."""
    if (name0, name1) in verified:
        return verified[name0, name1].pairs
    if (name1, name0) in verified:
        return verified[name1, name0].pairs[:, ::-1]
    return np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """Observations, track by track: the reference first, then the others in order of images."""

    names: list[str]
    images: list[np.ndarray]  # a track's image indices, into names
    keypoints: list[np.ndarray]  # and its keypoint index in each

    def __len__(self) -> int:
        return len(self.images)


def build_tracks(counts: Mapping[str, int], matches: Mapping[Pair, PairMatches]) -> Tracks:
    """Join verified matches into tracks, the most similar first.

    `counts` is the number of keypoints by image. A match that would bring a second keypoint of an
    image into a track is left out: better matches disagree with it. The reference of a track is
    the observation with most matches in it, whose appearance most of the others share; of equals,
    the one whose matches are most similar.
    """
    names = sorted(counts)
    offsets = dict(zip(names, np.cumsum([0, *(counts[n] for n in names)]).tolist(), strict=False))
    image_of = np.repeat(np.arange(len(names)), [counts[n] for n in names])
    edges, scores = _edges(offsets, matches)
    order = np.argsort(-scores, kind="stable")
    edges, scores = edges[order], scores[order]
    roots, is_joined = _join(edges, image_of)
    degree = np.zeros(len(image_of))
    # A similarity is below 1, so that it decides between equal numbers of matches only.
    weights = 1 + scores[is_joined] / 1e4
    np.add.at(degree, edges[is_joined].ravel(), np.repeat(weights, 2))
    return _collect(names, np.array(list(offsets.values())), image_of, degree, roots)


def _join(edges: np.ndarray, image_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join observations, edge by edge, into sets that never hold an image twice.

    Returns:
        One observation of the set that each belongs to, and whether each edge lies in a set.
    """
    roots = list(range(len(image_of)))
    members, images = [[i] for i in roots], [{i} for i in image_of.tolist()]
    is_joined = np.zeros(len(edges), bool)
    for k, (a, b) in enumerate(edges.tolist()):
        a, b = roots[a], roots[b]
        if a != b:
            if not images[a].isdisjoint(images[b]):
                continue
            if len(images[a]) < len(images[b]):
                a, b = b, a
            images[a] |= images[b]
            members[a] += members[b]
            for member in members[b]:
                roots[member] = a
        is_joined[k] = True
    return np.array(roots, dtype=np.int64), is_joined


def _edges(
    offsets: Mapping[str, int], matches: Mapping[Pair, PairMatches]
) -> tuple[np.ndarray, np.ndarray]:
    """All matches as pairs of observations (E, 2), with their similarities."""
    edges, scores = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for (name0, name1), found in matches.items():
        edges.append(found.pairs + np.array([offsets[name0], offsets[name1]]))
        scores.append(found.scores)
    return np.concatenate(edges), np.concatenate(scores)


def _collect(
    names: list[str],
    offsets: np.ndarray,
    image_of: np.ndarray,
    degree: np.ndarray,
    roots: np.ndarray,
) -> Tracks:
    matched = np.flatnonzero(degree)
    roots = roots[matched]
    order = np.lexsort((matched, roots))
    groups = np.split(matched[order], np.flatnonzero(np.diff(roots[order])) + 1)
    groups = [_reference_first(g, degree) for g in groups if len(g) > 1]
    return Tracks(
        names=names,
        images=[image_of[g] for g in groups],
        keypoints=[g - offsets[image_of[g]] for g in groups],
    )


def _reference_first(track: np.ndarray, degree: np.ndarray) -> np.ndarray:
    best = int(degree[track].argmax())
    return np.concatenate([track[best : best + 1], np.delete(track, best)])
