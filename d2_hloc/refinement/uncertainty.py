"""Uncertainty of refined keypoints, from the scores around the place where a patch was found."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

RESIDUALS = 108.0  # of a patch that are independent: with these, rendered views have these errors
FLOOR = 0.03  # cells: what interpolation and maps of a byte a number leave


def peak_deviations(
    scores: Float[Tensor, " K"], hessians: Float[Tensor, "K 3"]
) -> Float[Tensor, " K"]:
    """Standard deviations of the places of peaks, in cells, by how sharp and how high they are.

    A patch of P cells of unit length is found where the sum of its squared residuals,
    E(u) = 2 P (1 - s(u)) for a mean cosine s, is least. By least squares of N independent residuals
    its place has the covariance C = E / N (J^T J)^-1, with J^T J = -P H and the Hessian H of s:
    C = 2 (1 - s) / N (-H)^-1. The deviation is the mean over all directions, tr(C) / 2, and FLOOR.

    Args:
        scores: mean cosines at the peaks.
        hessians: second differences of the scores there, ii, jj and ij of rows i and columns j.

    Returns:
        One number a peak; NaN where the scores have none.
    """
    dii, djj, dij = (-hessians).unbind(dim=1)
    determinant = dii * djj - dij**2
    mean = (1 - scores).clamp(min=0) / RESIDUALS * (dii + djj) / determinant
    is_peak = (dii > 0) & (djj > 0) & (determinant > 0)
    return torch.where(is_peak, (mean + FLOOR**2).sqrt(), torch.nan)
