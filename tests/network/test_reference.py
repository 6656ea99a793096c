"""Ours equals the released method: positions, scores and descriptors on two real images."""

import numpy as np
import pytest
import torch

from d2_hloc.core.images import read_image
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.options import MULTISCALE, D2NetOptions

pytestmark = pytest.mark.usefixtures("on_device")


@pytest.mark.parametrize("image", ["fountain", "sacre_coeur"])
@pytest.mark.parametrize(("kind", "scales"), [("ss", (1.0,)), ("ms", MULTISCALE)])
def test_equals_the_released_method(shared, image, kind, scales):
    device = torch.get_default_device()
    net = D2Net(D2NetOptions(scales=scales, position="released")).to(device)
    ours = net.extract(read_image(shared / "reference" / f"{image}.png")[0].to(device))
    with np.load(shared / "reference" / f"{image}-{kind}.npz") as file:
        keypoints = torch.tensor(file["keypoints"])
        scores = torch.tensor(file["scores"])
        descriptors = torch.tensor(file["descriptors"]).float()
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(keypoints[:, :2], ours.keypoints, compute_mode=exact)
    distances[keypoints[:, 2, None] != ours.scales[None]] = torch.inf
    nearest, index = distances.min(dim=1)
    found = nearest < 0.02
    assert found.float().mean() >= 0.995
    assert (distances.amin(dim=0) < 0.02).float().mean() >= 0.995
    index = index[found]
    cosines = (descriptors[found] * ours.descriptors[index]).sum(dim=1)
    assert cosines.min() >= 0.9995
    torch.testing.assert_close(ours.scores[index], scores[found], rtol=1e-3, atol=0)
