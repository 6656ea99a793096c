"""Exact nearest neighbours as a matcher of hloc's, in memory that does not grow with N0 x N1."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from d2_hloc.hloc.base_model import BaseModel
from d2_hloc.hloc.dense_matches import check_indices, dense
from d2_hloc.hloc.matcher_conf import matching_options_of
from d2_hloc.hloc.plugin import INT16_MAX
from d2_hloc.matching.nearest import match_descriptors


class NearestNeighborExact(BaseModel):
    """Mutual nearest neighbours as hloc loads and calls them.

    `conf` holds MatchingOptions' keys, and `max_index`: the largest index that can be stored.

    hloc itself stores matches as int16 and wraps above 32767 without a word, so that is the
    default. The confs that register() adds have None where it could widen hloc's writer.
    """

    default_conf: ClassVar[dict[str, Any]] = {"max_index": INT16_MAX}
    required_inputs: ClassVar[list[str]] = ["descriptors0", "descriptors1"]

    def _init(self, conf: dict[str, Any]) -> None:
        self.options = matching_options_of(conf)

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Match unit descriptors 1 x D x N -> matches0 1 x N0 (int64, -1 = none), matching_scores0.

        Raises:
            ValueError: for a batch of other than one pair, for descriptors of different widths,
                or a match with a keypoint whose index cannot be stored.
        """
        descriptors = [data[key] for key in self.required_inputs]
        for key, value in zip(self.required_inputs, descriptors, strict=True):
            if value.ndim != 3 or value.shape[0] != 1:
                raise ValueError(f"{key} must be 1 x D x N, not {tuple(value.shape)}.")
        first, second = (_of_unit_length(value[0].T) for value in descriptors)
        matches = match_descriptors(first, second, self.options)
        check_indices(matches, self.conf["max_index"])
        return dense(matches, len(first))


def _of_unit_length(descriptors: Tensor) -> Tensor:
    """Descriptors of unit length; hloc reads whole numbers of compressed ones, up to 127."""
    is_of_whole_numbers = len(descriptors) > 0 and float(descriptors.abs().max()) > 1.5
    return F.normalize(descriptors) if is_of_whole_numbers else descriptors
