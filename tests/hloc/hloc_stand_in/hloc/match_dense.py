"""Pairs of images -> matches of pixels; a function, as hloc's, of two images."""

import torch

from . import matchers
from .utils.base_model import dynamic_load

confs = {
    "loftr": {
        "output": "matches-loftr",
        "model": {"name": "loftr"},
        "preprocessing": {"grayscale": True, "resize_max": 1024, "dfactor": 8},
        "max_error": 1,
        "cell_size": 1,
    },
}


@torch.no_grad()
def match_pair(conf, image0, image1):
    """A batch of one, of sizes that `dfactor` divides -> keypoints and scores, as hloc's own."""
    model = dynamic_load(matchers, conf["model"]["name"])(conf["model"]).eval()
    factor = conf["preprocessing"]["dfactor"]
    images = {}
    for k, image in enumerate((image0, image1)):
        height, width = (edge // factor * factor for edge in image.shape[1:])
        images[f"image{k}"] = image[None, :, :height, :width]
    pred = model({**images, "name0": "a", "name1": "b"})
    return {key: pred[key].cpu().numpy() for key in ("keypoints0", "keypoints1", "scores")}
