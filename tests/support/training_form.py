"""The network in the form that is trained, whole."""

from jaxtyping import Float
from torch import Tensor

from d2_hloc.network.backbone import Backbone


def training_maps(
    backbone: Backbone, images: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "B 512 h w"]:
    """Maps of the training form, from its trunk and its head."""
    return backbone.training_head(backbone.training_trunk(images, "conv4_1"), "conv4_1")
