"""The trunk's test form equals a plain whole-image network; strips change nothing."""

import pytest
import torch
import torch.nn.functional as F
from training_form import training_maps

from d2_hloc.network import backbone as module
from d2_hloc.network.backbone import LAYERS, from_lattices, preprocess, strips, to_lattices

pytestmark = pytest.mark.usefixtures("on_device")

# Every remainder of a division by 4, in both axes; odd and even numbers of cells; the smallest.
SIZES = [(64, 80), (69, 86), (66, 81), (87, 63), (61, 87), (8, 8), (9, 15), (12, 13), (11, 40)]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def photo_of(photo, height, width):
    return photo[None, :, 20 : 20 + height, 60 : 60 + width]


def plain_maps(backbone, images, is_test):
    """The paper's two forms, layer by layer, with dilated convolutions and whole images."""
    mean = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    x = images[:, [2, 1, 0]] * 255 - mean
    for name in LAYERS:
        layer = backbone.get_submodule(name)
        if name in ("conv2_1", "conv3_1"):
            x = F.max_pool2d(x, 2)
        if name == "conv4_1":
            x = F.avg_pool2d(x, 2, stride=1) if is_test else F.max_pool2d(x, 2)
        dilation = 2 if is_test and name.startswith("conv4") else 1
        x = F.conv2d(x, layer.weight, layer.bias, padding=dilation, dilation=dilation)
        if is_test or name != "conv4_3":
            x = F.relu(x)
    return x


def dense_maps(backbone, images):
    pooled = backbone.pooled(images)
    return backbone.dense_rows(pooled, 0, pooled.shape[2])


def assert_same_maps(found, expected):
    assert found.shape == expected.shape
    assert expected.max() > 1  # or the comparison would say nothing
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_test_form_equals_a_plain_network(backbone, photo, height, width):
    images = photo_of(photo, height, width)
    expected = plain_maps(backbone, images, is_test=True)
    assert expected.shape[2:] == (height // 4 - 1, width // 4 - 1)
    assert_same_maps(dense_maps(backbone, images), expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_training_form_equals_a_plain_network(backbone, photo, height, width):
    images = photo_of(photo, height, width)
    expected = plain_maps(backbone, images, is_test=False)
    assert expected.shape[2:] == (height // 8, width // 8)
    assert_same_maps(training_maps(backbone, images), expected)


def test_the_training_form_has_no_relu_at_its_end_and_the_test_form_has(backbone, photo):
    images = photo_of(photo, 61, 87)
    assert training_maps(backbone, images).min() < 0
    assert dense_maps(backbone, images).min() == 0


@torch.inference_mode(False)
def test_the_training_form_can_be_trained(backbone, photo):
    images = photo_of(photo, 40, 48).clone()
    layer = backbone.conv4_3.requires_grad_(True)
    try:
        training_maps(backbone, images).square().mean().backward()
        assert layer.weight.grad.isfinite().all()
        assert layer.weight.grad.abs().max() > 0
    finally:
        layer.requires_grad_(False)
        layer.weight.grad = layer.bias.grad = None


@pytest.mark.parametrize(
    ("rows", "height", "width"), [(1, 70, 61), (2, 87, 63), (3, 64, 60), (5, 89, 46)]
)
def test_strips_of_the_image_change_nothing(backbone, photo, monkeypatch, rows, height, width):
    images = photo_of(photo, height, width)
    whole = backbone.pooled(images)
    monkeypatch.setattr(module, "STRIP_PIXELS", rows * width * 4)
    seen = []
    monkeypatch.setattr(module, "preprocess", lambda x: (seen.append(x.shape), preprocess(x))[1])
    assert_same_maps(backbone.pooled(images), whole)
    assert len(seen) == -(-whole.shape[2] // rows)
    assert max(shape[2] for shape in seen) <= (rows + 1 + 2 * module.HALO_CONV3) * 4 + 3


@pytest.mark.parametrize(("top", "bottom"), [(0, 1), (0, 7), (3, 4), (6, 9), (15, 20), (19, 20)])
def test_some_rows_equal_those_of_all(backbone, photo, top, bottom):
    images = photo_of(photo, 87, 61)
    pooled = backbone.pooled(images)
    whole = backbone.dense_rows(pooled, 0, 20)
    torch.testing.assert_close(
        backbone.dense_rows(pooled, top, bottom),
        whole[:, :, top:bottom],
        rtol=1e-4,
        atol=1e-4 * float(whole.max()),
    )


def test_images_of_a_batch_do_not_touch(backbone, photo):
    batch = torch.cat([photo_of(photo, 45, 51), photo_of(photo, 45, 51).flip(3)])
    together = dense_maps(backbone, batch)
    apart = torch.cat([dense_maps(backbone, image[None]) for image in batch])
    assert_same_maps(together, apart)


@pytest.mark.parametrize(("height", "width"), [(7, 100), (100, 7), (1, 1)])
def test_an_image_that_is_too_small_is_named_width_first(backbone, height, width):
    with pytest.raises(ValueError, match=f"image of {width} x {height} is too small: 8 at least"):
        backbone.pooled(torch.zeros(1, 3, height, width))


def test_preprocessing_is_caffes():
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    found = preprocess(red).flatten().tolist()
    assert found == pytest.approx([-103.939, -116.779, 255 - 123.68])


@pytest.mark.parametrize(("rows", "height"), [(20, 7), (7, 7), (3, 100), (4, 0), (1, -5)])
def test_strips_cover_all_rows_once(rows, height):
    found = list(strips(rows, height))
    assert [row for top, bottom in found for row in range(top, bottom)] == list(range(rows))
    assert max(bottom - top for top, bottom in found) <= max(1, height)


def test_no_rows_have_no_strips():
    assert list(strips(0, 5)) == []


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 6), (4, 7), (5, 7)])
def test_lattices_are_put_together_again(size):
    maps = torch.randn(2, 3, *size)
    back = torch.empty_like(maps)
    from_lattices(to_lattices(maps), back)
    assert torch.equal(back, maps)
