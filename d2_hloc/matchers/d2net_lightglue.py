"""The learned matcher of D2-Net's features as a matcher of hloc's."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from d2_hloc.features.pyramids import match_by_pyramid
from d2_hloc.hloc.base_model import BaseModel
from d2_hloc.hloc.dense_matches import check_indices, dense
from d2_hloc.hloc.matcher_conf import matching_options_of
from d2_hloc.hloc.model_inputs import given_features, given_size
from d2_hloc.hloc.plugin import INT16_MAX
from d2_hloc.matching.grown_glue import GrownGlue


class D2NetLightGlue(BaseModel):
    """`conf` holds MatchingOptions' keys, and `max_index`, as of nearest_neighbor_exact."""

    default_conf: ClassVar[dict[str, Any]] = {"matcher": "lightglue", "max_index": INT16_MAX}
    required_inputs: ClassVar[list[str]] = [
        *("keypoints0", "descriptors0", "keypoints1", "descriptors1")
    ]

    def _init(self, conf: dict[str, Any]) -> None:
        self.options = matching_options_of(conf)
        self.matcher = GrownGlue(self.options)

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keypoints 1 x N x 2 and descriptors 1 x D x N -> matches0 1 x N0, matching_scores0.

        The images' sizes are those of `image_size0` and `image_size1`, 1 x 2, or of `image0` and
        `image1`, as hloc gives them. `scales0` and `scales1`, 1 x N, are the pixels of the image in
        one of that which keypoints were found in; 1 where they are not given. Keypoints of unequal
        `pyramids0` and `pyramids1`, 1 x N, are not matched to each other.

        Raises:
            ValueError: for a batch of other than one pair, descriptors of a width that the weights
                were not learned from, images of no size, or a match that cannot be stored.
        """
        images = []
        for k in "01":
            descriptors = data[f"descriptors{k}"]
            if descriptors.ndim != 3 or descriptors.shape[0] != 1:
                raise ValueError(
                    f"descriptors{k} must be 1 x D x N, not {tuple(descriptors.shape)}."
                )
            size = given_size(data, k, "D2NetLightGlue")
            images.append(self.matcher.prepare_image(given_features(data, k), size))
        matches = match_by_pyramid(self.matcher, *images)
        check_indices(matches, self.conf["max_index"])
        return dense(matches, len(images[0]))
