"""Winograd's form equals direct convolution; what is of one colour stays without features."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from d2_hloc.network import winograd
from d2_hloc.network.d2net import D2Net


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def random_layer(channels_in, channels_out, seed=0):
    torch.manual_seed(seed)
    layer = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    return layer.to(memory_format=torch.channels_last)


# Every remainder of a division by 4, in both axes; a batch; more tiles than are taken at once.
@pytest.mark.parametrize(
    "size", [(1, 8, 9), (2, 10, 11), (1, 6, 6), (1, 61, 47), (3, 7, 30), (1, 9, 530)]
)
def test_equals_a_direct_convolution(size):
    layer = random_layer(5, 7)
    x = torch.randn(size[0], 5, *size[1:]).contiguous(memory_format=torch.channels_last)
    expected = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
    found = winograd.convolve(layer, x)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


def test_other_weights_in_the_same_layer_count():
    layer = random_layer(4, 4)
    x = torch.randn(1, 4, 12, 12)
    before = winograd.convolve(layer, x)
    layer.weight.mul_(2)
    layer.bias.mul_(2)
    torch.testing.assert_close(winograd.convolve(layer, x), 2 * before)


def test_the_form_is_for_wide_layers_on_a_cpu_without_gradients():
    wide, narrow = random_layer(128, 8), random_layer(64, 8)
    x = torch.randn(1, 128, 8, 8)
    assert winograd.is_faster(wide, x)
    assert not winograd.is_faster(narrow, x[:, :64])
    assert not winograd.is_faster(wide, x[:, :, :5])
    assert not winograd.is_faster(wide, x.half())
    with torch.inference_mode():
        assert winograd.is_faster(wide, x)
        assert not winograd.is_faster(random_layer(128, 8), x)
    with torch.enable_grad():
        assert not winograd.is_faster(wide, x)


def test_features_are_those_of_direct_convolutions_also_beside_plain_walls(photo, monkeypatch):
    """Rounding would make hundreds of peaks where the image is of one colour."""
    image = photo.clone()
    image[:, 20:180, 150:310] = torch.tensor([0.3, 0.5, 0.7])[:, None, None]
    net = D2Net()
    found = net.extract(image)
    monkeypatch.setattr(winograd, "is_faster", lambda *_: False)
    expected = net.extract(image)
    assert len(expected.keypoints) > 50
    assert len(found.keypoints) == len(expected.keypoints)
    torch.testing.assert_close(found.keypoints, expected.keypoints, atol=0.01, rtol=0)
    torch.testing.assert_close(found.descriptors, expected.descriptors, atol=1e-4, rtol=0)
