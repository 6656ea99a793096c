"""Local affinities: how a small neighbourhood of one image is seen in another, from matches."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

RIDGE = 200.0  # square pixels; neighbours are tens of pixels away
NOISE = (32.0, 16.0, 8.0, 4.0, 4.0)  # pixels of a match that counts half, step by step
MANY = 2000  # matches, of which all distances take longer than a tree
MAX_STRETCH = 3.0  # of a patch, by a local affinity


def local_affinities(
    xy0: Float[Tensor, "M 2"],
    xy1: Float[Tensor, "M 2"],
    at: Float[Tensor, "K 2"],
    neighbours: int,
) -> Float[Tensor, "K 2 2"]:
    """Affinities that map offsets about places `at` in image 0 to image 1, by matches around.

    Robust least squares over the nearest matches, drawn to the identity by `RIDGE`, stricter from
    step to step, so that wrong matches lose their weight; the identity where there are too few, or
    where the fit is not a sensible change of view.
    """
    identity = torch.eye(2, device=at.device).expand(len(at), 2, 2)
    if neighbours < 3 or len(xy0) < neighbours or not len(at):
        return identity.clone()
    fitted = _fit_affinities(xy0, xy1, neighbours)
    found = fitted[_nearest(at, xy0, 1)[:, 0]]
    stretch = torch.linalg.svdvals(found)
    sensible = (stretch[:, 0] < MAX_STRETCH) & (stretch[:, 1] > 1 / MAX_STRETCH)
    sensible &= torch.linalg.det(found) > 0
    return torch.where(sensible[:, None, None], found, identity)


def _fit_affinities(
    xy0: Float[Tensor, "M 2"], xy1: Float[Tensor, "M 2"], neighbours: int
) -> Float[Tensor, "M 2 2"]:
    index = _nearest(xy0, xy0, neighbours)
    from0, to1 = xy0[index] - xy0[:, None], xy1[index] - xy1[:, None]
    identity = torch.eye(2, device=xy0.device)
    ridge = RIDGE * identity
    affinities = identity.expand(len(xy0), 2, 2)
    for noise in NOISE:
        residuals = (to1 - from0 @ affinities).norm(dim=2)
        weighted = from0 / (1 + (residuals / noise) ** 2)[..., None]
        normal = weighted.transpose(1, 2) @ from0 + ridge
        affinities = inverse_2x2(normal) @ (weighted.transpose(1, 2) @ to1 + ridge)
    return affinities.transpose(1, 2)


def _nearest(at: Float[Tensor, "K 2"], xy: Float[Tensor, "M 2"], count: int) -> Int[Tensor, "K c"]:
    """Indices of the nearest `count` of M places to each of K; by a tree where M is large."""
    if len(xy) > MANY and xy.device.type == "cpu":
        found = KDTree(xy.numpy()).query(at.numpy(), k=count)[1]
        return torch.from_numpy(np.asarray(found, np.int64)).view(-1, count)
    return torch.cdist(at, xy).topk(count, largest=False).indices


def inverse_2x2(matrices: Float[Tensor, "K 2 2"]) -> Float[Tensor, "K 2 2"]:
    """Written out: LAPACK takes ten times as long for so small ones."""
    a, b, c, d = matrices.flatten(1).unbind(dim=1)
    adjugate = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2)
    return adjugate / (a * d - b * c)[:, None, None]
