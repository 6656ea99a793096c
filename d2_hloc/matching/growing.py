"""Matches grown from their neighbours: where a few agree, others are looked for between them.

Mutual nearest neighbours in whole images find one in ten of the cells that both images show:
elsewhere something looks alike by chance. Matches that agree with those around them say where the
keypoints between them should be found, and there few others compete.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from d2_hloc.core.structs import Matches
from d2_hloc.matching.consistency import local_consistency
from d2_hloc.matching.options import GrowingOptions

FEWEST = 8  # matches that agree, to grow from
CHUNK = 1024  # keypoints whose candidates are compared at once


@dataclass(frozen=True, kw_only=True)
class KeypointField:
    """Keypoints of an image, and what a search among them needs."""

    xy: Float[np.ndarray, "N 2"]
    descriptors: Float[Tensor, "N D"]  # of unit length
    area: float  # of the image, in square pixels
    noise: float = 1.0  # pixels of the image in one of that which keypoints were found in


@dataclass(frozen=True, kw_only=True)
class Supported:
    """Matches that agree with those around them."""

    pairs: Int[np.ndarray, "K 2"]
    cosines: Float[np.ndarray, " K"]
    similarities: np.ndarray  # (K,) complex: an offset in image 0 times it is one in image 1

    def __len__(self) -> int:
        return len(self.pairs)


def grow_matches(
    options: GrowingOptions, field0: KeypointField, field1: KeypointField, matches: Matches
) -> Matches:
    """Find the matches that agree with those around them, and all that can be found between.

    The same matches come back where too few of them agree. A keypoint is in one match at most.
    """
    pairs, cosines = matches.pairs.cpu().numpy(), matches.scores.cpu().numpy() * 2 - 1
    grown = _supported(options, field0, field1, pairs, cosines)
    tree1 = KDTree(field1.xy) if len(field1.xy) else None
    for _ in range(options.steps):
        if len(grown) < FEWEST or tree1 is None:
            return matches
        proposed = _propose(options, field0, field1, tree1, grown)
        grown = _supported(options, field0, field1, *proposed)
    if len(grown) < FEWEST:
        return matches
    scores = torch.from_numpy((grown.cosines + 1) / 2).float().clamp(0, 1)
    return Matches(pairs=torch.from_numpy(grown.pairs), scores=scores)


def _supported(
    options: GrowingOptions,
    field0: KeypointField,
    field1: KeypointField,
    pairs: np.ndarray,
    cosines: np.ndarray,
) -> Supported:
    found = local_consistency(
        field0.xy[pairs[:, 0]],
        field1.xy[pairs[:, 1]],
        field1.area,
        noise=options.noise * field1.noise,
    )
    keep = found.support > options.min_support
    return Supported(
        pairs=pairs[keep], cosines=cosines[keep], similarities=found.similarities[keep]
    )


def _propose(
    options: GrowingOptions,
    field0: KeypointField,
    field1: KeypointField,
    tree1: KDTree,
    grown: Supported,
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of image 0 near matches, each with the most similar one near where it is expected.

    Pairs (M, 2) and cosines (M,), of the keypoints that are each other's most similar.
    """
    index0, expected = expected_places(options, field0, field1, grown)
    count = min(options.candidates, len(field1.xy))
    reach = options.radius * field1.noise
    distances, near = tree1.query(expected, k=max(2, count), distance_upper_bound=reach)
    is_there = torch.from_numpy(np.isfinite(distances))
    near = torch.from_numpy(near).where(is_there, 0)
    index1, cosines = _most_similar(field0, field1, torch.from_numpy(index0), near, is_there)
    highest = np.full(len(field1.xy), -1.0, np.float32)
    np.maximum.at(highest, index1, cosines)
    rows = np.flatnonzero((cosines > -1) & (cosines >= highest[index1]))
    _, first = np.unique(index1[rows], return_index=True)
    rows = rows[np.sort(first)]  # one of equals
    return np.stack([index0[rows], index1[rows]], axis=1), cosines[rows]


def _most_similar(
    field0: KeypointField, field1: KeypointField, index0: Tensor, near: Tensor, is_there: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (M,) of highest cosine among `near` (M, C), and these (M,); -1 for none."""
    index1, cosines = [], []
    asked = (t.to(field1.descriptors.device) for t in (index0, near, is_there))
    for rows, cells, mask in zip(*(t.split(CHUNK) for t in asked), strict=True):
        among = field1.descriptors[cells.flatten()].view(*cells.shape, -1)
        similar = torch.bmm(among, field0.descriptors[rows][:, :, None])[:, :, 0]
        value, best = similar.masked_fill(~mask, -1).max(dim=1)
        index1.append(cells.gather(1, best[:, None])[:, 0])
        cosines.append(value)
    return torch.cat(index1).cpu().numpy(), torch.cat(cosines).cpu().numpy()


def expected_places(
    options: GrowingOptions, field0: KeypointField, field1: KeypointField, grown: Supported
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (M,) of image 0 near matches, and where in image 1 these let expect them (M, 2)."""
    at0, at1 = field0.xy[grown.pairs[:, 0]], field1.xy[grown.pairs[:, 1]]
    distances, nearest = KDTree(at0).query(
        field0.xy, k=options.votes, distance_upper_bound=options.reach * field0.noise
    )
    is_vote, nearest = np.isfinite(distances), np.minimum(nearest, len(at0) - 1)
    near = np.flatnonzero(is_vote[:, 0])
    is_vote, nearest = is_vote[near], nearest[near]
    offsets = field0.xy[near][:, None] - at0[nearest]
    moved = (offsets[..., 0] + 1j * offsets[..., 1]) * grown.similarities[nearest]
    votes = np.stack([moved.real, moved.imag], axis=2) + at1[nearest]
    votes[~is_vote] = np.nan
    expected = np.nanmedian(votes, axis=1)
    spread = np.nanmax(np.abs(votes - expected[:, None]), axis=(1, 2))
    agree = spread < options.spread * field1.noise
    return near[agree], expected[agree]
