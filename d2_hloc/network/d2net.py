"""D2-Net: image -> Features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2_hloc.core.pixels import cells_to_level, level_to_image
from d2_hloc.core.structs import Features
from d2_hloc.network.backbone import Backbone
from d2_hloc.network.description import GeneralizedMean
from d2_hloc.network.options import D2NetOptions
from d2_hloc.network.pyramid import Pyramid, grow_pyramids
from d2_hloc.network.weights.files import load_weights

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class D2Net(nn.Module):
    """Joint detection and description with one network (Dusmanu et al., CVPR 2019)."""

    def __init__(self, options: D2NetOptions | None = None) -> None:
        """Load the weights that the options name; nothing is downloaded.

        Raises:
            WeightsError: if there are no such weights.
        """
        super().__init__()
        self.options = options or D2NetOptions()
        self.backbone = Backbone()
        self.backbone.load_state_dict(load_weights(self.options.weights))
        self.to(DTYPES[self.options.precision]).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Features]:
        """Features of images (B, 3, H, W) of one size, RGB in [0, 1]; keypoints in their pixels.

        Raises:
            ValueError: for other shapes, whole numbers, or an image too small for a level.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"Images must have the shape B x 3 x H x W, not {tuple(images.shape)}."
            )
        if not images.is_floating_point():
            raise ValueError(f"Images must be floating point in [0, 1], not {images.dtype}.")
        pyramids = [
            Pyramid(scales, self.options.edge_threshold, [GeneralizedMean() for _ in images])
            for scales in self.options.pyramids
        ]
        grow_pyramids(self.backbone, images, pyramids)
        size = (images.shape[3], images.shape[2])
        limits = [0 if is_flat(image) else self.options.max_keypoints for image in images]
        return [
            joined_pyramids([self._features(p, k, size).best(limit) for p in pyramids])
            for k, limit in enumerate(limits)
        ]

    def extract(self, image: Float[Tensor, "3 H W"]) -> Features:
        """Features of one image, a tensor or an array."""
        return self(torch.as_tensor(image)[None])[0]

    def _features(self, pyramid: Pyramid, k: int, size: tuple[int, int]) -> Features:
        """Everything that a pyramid found in the k-th image, of that size (w, h)."""
        position = self.options.position
        keypoints, scores, descriptors, scales = [], [], [], []
        for level in pyramid.levels:
            part = level.parts[k]
            xy = cells_to_level(part.positions.flip(1), position)
            keypoints.append(level_to_image(xy, level.size, size, position))
            scores.append(part.values / (level.index + 1))
            descriptors.append(part.descriptors)
            scales.append(torch.full_like(part.values, 1 / level.scale))
        return Features(
            keypoints=torch.cat(keypoints),
            scores=torch.cat(scores),
            descriptors=torch.cat(descriptors),
            scales=torch.cat(scales),
            global_descriptor=pyramid.pools[k].result(),
        )


def joined_pyramids(found: Sequence[Features]) -> Features:
    """Features of one image by several pyramids, in one list that says which is of which."""
    if len(found) == 1:
        return found[0]
    return Features(
        keypoints=torch.cat([f.keypoints for f in found]),
        scores=torch.cat([f.scores for f in found]),
        descriptors=torch.cat([f.descriptors for f in found]),
        scales=torch.cat([f.scales for f in found]),
        pyramids=torch.cat([torch.full_like(f.scores, k).long() for k, f in enumerate(found)]),
        global_descriptor=found[0].global_descriptor,
    )


def is_flat(image: Float[Tensor, "3 H W"]) -> bool:
    """Tell whether an image is of one colour, to within half a grey level.

    The network would find its own border there.
    """
    return bool((image.amax(dim=(1, 2)) - image.amin(dim=(1, 2))).max() < 1 / 510)
