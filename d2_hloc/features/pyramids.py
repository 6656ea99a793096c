"""Features that were found in several image pyramids, apart from each other.

A keypoint of one pyramid and one of another may be the same corner, and would each take the other's
partner. What a pyramid found is therefore matched to what the same pyramid found in other images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from d2_hloc.core.structs import Features, Matches


@dataclass(frozen=True, kw_only=True)
class PyramidPart:
    """The features of one image that one pyramid found, as a matcher takes them."""

    rows: Int[Tensor, " K"]  # of the image's features
    prepared: Any  # has a length, K, and nbytes


@dataclass(frozen=True, kw_only=True)
class PreparedPyramids:
    """The features of one image, prepared by pyramid; of most features there is one."""

    parts: Mapping[int, PyramidPart]

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self.parts.values())

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(part.rows.nbytes + part.prepared.nbytes for part in self.parts.values())


def prepare_by_pyramid(features: Features, prepare: Callable[[Features], Any]) -> PreparedPyramids:
    """Prepare each pyramid's features of an image by themselves."""
    rows = torch.arange(len(features))
    if features.pyramids is None:
        return PreparedPyramids(parts={0: PyramidPart(rows=rows, prepared=prepare(features))})
    of = features.pyramids.cpu()
    found = {int(k): rows[of == k] for k in of.unique()}
    return PreparedPyramids(
        parts={
            k: PyramidPart(rows=chosen, prepared=prepare(features.chosen(chosen)))
            for k, chosen in found.items()
        }
    )


def match_by_pyramid(
    match: Callable[[Any, Any], Matches], image0: PreparedPyramids, image1: PreparedPyramids
) -> Matches:
    """Match what the same pyramid found in two images; pairs are of the images' keypoints."""
    found = [
        _in_image(match(image0.parts[k].prepared, image1.parts[k].prepared), image0, image1, k)
        for k in image0.parts
        if k in image1.parts
    ]
    if not found:
        return Matches.none()
    return Matches(
        pairs=torch.cat([m.pairs for m in found]), scores=torch.cat([m.scores for m in found])
    )


def _in_image(
    matches: Matches, image0: PreparedPyramids, image1: PreparedPyramids, k: int
) -> Matches:
    """Matches of pyramid k's features as those of the images' keypoints."""
    rows = (image.parts[k].rows.to(matches.pairs.device) for image in (image0, image1))
    columns = [r[index] for r, index in zip(rows, matches.pairs.T, strict=True)]
    return Matches(pairs=torch.stack(columns, dim=1), scores=matches.scores)
