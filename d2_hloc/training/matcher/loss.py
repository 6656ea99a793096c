"""The negative log-likelihood of the assignment (of LightGlue), and how good one is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from d2_hloc.matching.lightglue import Assignment, partners
from d2_hloc.training.matcher.examples import Example


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Loss of partners, and of features without one; each pair of images counts as much."""

    partners: Float[Tensor, ""]
    alone: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        return self.partners + self.alone


def assignment_loss(found: Assignment, truth: Example) -> Loss:
    """Loss of a batch. Scores are made of partners alone, which saves most of the memory."""
    similarity, z0, z1 = found.similarity, found.matchable0, found.matchable1
    rows, columns = similarity.logsumexp(dim=2), similarity.logsumexp(dim=1)
    b, i = (truth.partner0 >= 0).nonzero(as_tuple=True)
    j = truth.partner0[b, i]
    scores = 2 * similarity[b, i, j] - rows[b, i] - columns[b, j]
    scores = scores + F.logsigmoid(z0[b, i]) + F.logsigmoid(z1[b, j])
    counts = torch.bincount(b, minlength=len(similarity))
    of_partners = -(scores / counts[b]).sum() / (counts > 0).sum().clamp(min=1)
    of_alone = (alone_loss(z0, truth.alone0) + alone_loss(z1, truth.alone1)) / 2
    return Loss(partners=of_partners, alone=of_alone)


def alone_loss(logits: Float[Tensor, "B N"], alone: Bool[Tensor, "B N"]) -> Float[Tensor, ""]:
    """Loss of features without a partner: small where they are said to have none."""
    sums = -(F.logsigmoid(-logits) * alone).sum(dim=1)
    return (sums / alone.sum(dim=1).clamp(min=1)).mean()


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Quality of matches whose truth is known: how many are right, and how many were found."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.precision * self.recall / max(1e-9, self.precision + self.recall)


def measure(
    scores: Float[Tensor, "B N0 N1"], truth: Example, min_score: float
) -> list[tuple[float, float]]:
    """Precision and recall of each pair's matches; `scores` are logarithms."""
    found = []
    for k, log_scores in enumerate(scores):
        partner0 = truth.partner0[k]
        pairs = partners(log_scores, min_score)[0]
        right = int((partner0[pairs[:, 0]] == pairs[:, 1]).sum())
        known = (partner0 >= 0)[pairs[:, 0]] | truth.alone0[k][pairs[:, 0]]
        known = known | truth.alone1[k][pairs[:, 1]]
        found.append((right / max(1, int(known.sum())), right / max(1, int((partner0 >= 0).sum()))))
    return found
