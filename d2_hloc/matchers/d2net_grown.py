"""Matches grown from their neighbours as a matcher of hloc's, for dense features."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from d2_hloc.hloc.base_model import BaseModel
from d2_hloc.hloc.dense_matches import check_indices, dense
from d2_hloc.hloc.matcher_conf import matching_options_of
from d2_hloc.hloc.model_inputs import given_features, given_size
from d2_hloc.hloc.plugin import INT16_MAX
from d2_hloc.matching.grown import PlacedDescriptors, match_grown, place_descriptors


class D2NetGrown(BaseModel):
    """`conf` holds MatchingOptions' keys, and `max_index`, as of nearest_neighbor_exact."""

    default_conf: ClassVar[dict[str, Any]] = {"matcher": "grown", "max_index": INT16_MAX}
    required_inputs: ClassVar[list[str]] = [
        *("keypoints0", "descriptors0", "keypoints1", "descriptors1")
    ]

    def _init(self, conf: dict[str, Any]) -> None:
        self.options = matching_options_of(conf)

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keypoints 1 x N x 2 and descriptors 1 x D x N -> matches0 1 x N0, matching_scores0.

        The images' sizes are those of `image_size0` and `image_size1`, or of `image0` and `image1`.
        `scales0` and `scales1`, 1 x N, are the pixels of the image in one of that which keypoints
        were found in; 1 where they are not given.

        Raises:
            ValueError: for a match with a keypoint whose index cannot be stored.
        """
        images = [_placed(data, k) for k in "01"]
        matches = match_grown(self.options, *images)
        check_indices(matches, self.conf["max_index"])
        return dense(matches, len(images[0]))


def _placed(data: dict[str, Tensor], k: str) -> PlacedDescriptors:
    features = given_features(data, k).to("cpu")
    return place_descriptors(features, given_size(data, k, "D2NetGrown"))
