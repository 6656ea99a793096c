"""The whole network: where features lie, that strips and batches change nothing, and its errors."""

import pytest
import torch
from random_tensors import random_uniform

from d2_hloc.core.structs import Features
from d2_hloc.network import backbone as backbone_module
from d2_hloc.network import pyramid
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.description import GeneralizedMean
from d2_hloc.network.options import MULTISCALE, D2NetOptions
from d2_hloc.network.weights.catalogue import WeightsError

pytestmark = pytest.mark.usefixtures("on_device")


def created(options=None):
    """The network, on the device that tests compute on."""
    return D2Net(options).to(torch.get_default_device())


@pytest.fixture(scope="module")
def single():
    return created()


@pytest.fixture(scope="module")
def multi():
    return created(D2NetOptions(scales=MULTISCALE))


@pytest.fixture(scope="module", params=["single", "multi"])
def net(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def part(photo):
    """An odd-sized part of the photograph, 3 x 101 x 133."""
    return photo[:, 20:121, 60:193].contiguous()


@pytest.fixture(scope="module")
def features(net, part):
    return net.extract(part)


@pytest.fixture(scope="module")
def single_features(single, part):
    return single.extract(part)


def assert_same_features(found, expected, atol=1e-4):
    assert len(found) == len(expected) > 10
    torch.testing.assert_close(found.keypoints, expected.keypoints, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.descriptors, expected.descriptors, rtol=0, atol=atol)
    torch.testing.assert_close(found.scales, expected.scales)
    torch.testing.assert_close(
        found.global_descriptor, expected.global_descriptor, atol=atol, rtol=0
    )


def test_features_are_finite_in_bounds_and_of_unit_length(features):
    found, count = features, len(features)
    assert count > 30
    assert found.keypoints.shape == (count, 2)
    assert found.scores.shape == found.scales.shape == (count,)
    assert found.descriptors.shape == (count, 512)
    assert found.pyramids is None
    values = [value for key, value in vars(found).items() if key != "pyramids"]
    assert all(value.dtype == torch.float32 for value in values)
    assert all(value.isfinite().all() for value in values)
    assert found.keypoints.min() >= 0
    assert (found.keypoints <= torch.tensor([132.0, 100.0])).all()
    assert torch.allclose(found.descriptors.norm(dim=1), torch.ones(count), atol=1e-5)
    assert found.global_descriptor.norm().item() == pytest.approx(1, abs=1e-5)
    assert found.scores.min() > 0
    assert not found.keypoints.requires_grad


def test_features_are_ordinary_tensors(features):
    """Networks with gradients take them, and they can be changed in place."""
    features.keypoints.clone().add_(1)
    copy = features.descriptors
    assert not copy.is_inference()
    head = torch.nn.Linear(copy.shape[1], 2)
    head(copy).sum().backward()
    assert head.weight.grad.abs().sum() > 0


def test_features_come_best_first(features):
    assert torch.equal(features.scores, features.scores.sort(descending=True)[0])


def test_features_have_the_scale_of_their_level(net, features):
    expected = {1 / scale for scale in net.options.scales}
    assert set(features.scales.tolist()) == expected


def test_scores_are_responses_over_the_levels_number_and_scales_are_inverse(part):
    net = created(D2NetOptions(scales=(0.5, 1.0)))
    found = net.extract(part)
    pools = [GeneralizedMean()]
    with torch.inference_mode():
        coarse, fine = pyramid.levels(net.backbone, part[None], (0.5, 1.0), 5.0, pools)
    for level, scale, divisor in ((coarse, 2.0, 1), (fine, 1.0, 2)):
        expected = level.parts[0].values.sort(descending=True)[0] / divisor
        assert len(expected) > 5
        assert torch.equal(found.scores[found.scales == scale], expected)


def test_extraction_is_deterministic(net, part, features):
    again = net.extract(part)
    assert torch.equal(again.keypoints, features.keypoints)
    assert torch.equal(again.descriptors, features.descriptors)


def test_strips_change_nothing(net, photo, monkeypatch):
    image = photo[:, 80:131, 80:143]
    whole = net.extract(image)
    monkeypatch.setattr(backbone_module, "STRIP_PIXELS", 4 * 4 * 63)
    monkeypatch.setattr(pyramid, "STRIP_CELLS", 4 * 14)
    seen, strip = [], pyramid.Strip
    monkeypatch.setattr(pyramid, "Strip", lambda **v: (seen.append(v), strip(**v))[1])
    assert_same_features(net.extract(image), whole)
    assert len(seen) >= 3


def test_images_of_a_batch_do_not_touch(net, part):
    image = part[:, :61, :67]
    batch = torch.stack([image, image.flip(2)])
    for found, image in zip(net(batch), batch, strict=True):
        assert_same_features(found, net.extract(image))


def mirrored_features(options, image, dim):
    """Features of the mirrored image, by the network with mirrored filters.

    Its maps are the mirrored maps of the image, whatever the weights are.
    """
    net = created(options)
    for name, value in net.named_parameters():
        if name.endswith("weight"):
            value.copy_(value.flip(dim + 1))
    return net.extract(image.flip(dim))


def farthest_neighbour(points0, points1):
    distances = torch.cdist(points0, points1, compute_mode="donot_use_mm_for_euclid_dist")
    return max(float(distances.amin(dim=0).max()), float(distances.amin(dim=1).max()))


def mirrored_keypoints(options, image, dim):
    keypoints = mirrored_features(options, image, dim).keypoints.clone()
    axis = 2 - dim
    keypoints[:, axis] = image.shape[dim] - 1 - keypoints[:, axis]
    return keypoints


@pytest.mark.parametrize(
    ("scale", "height", "width"), [(1.0, 96, 128), (0.5, 192, 304), (2.0, 48, 80)]
)
@pytest.mark.parametrize("dim", [1, 2])
def test_a_mirrored_image_has_mirrored_keypoints(photo, scale, height, width, dim):
    """True only if positions are where the network looks: in W pixels, x goes to W - 1 - x."""
    image = photo[:, :height, -width:]  # whole cells at this scale
    options = D2NetOptions(scales=(scale,))
    found = created(options).extract(image).keypoints
    assert len(found) > 10
    assert farthest_neighbour(found, mirrored_keypoints(options, image, dim)) < 0.02


def test_positions_as_released_lie_two_pixels_off_on_either_side(photo):
    image = photo[:, :96, -128:]
    options = D2NetOptions(position="released")
    found = created(options).extract(image).keypoints
    shift = torch.tensor([4.0, 0.0])
    assert farthest_neighbour(found + shift, mirrored_keypoints(options, image, 2)) < 0.01


def test_the_two_positions_differ_by_two_pixels_and_in_nothing_else(single_features, part):
    released = created(D2NetOptions(position="released")).extract(part)
    found = single_features
    assert torch.allclose(found.keypoints, released.keypoints + 2, atol=1e-4)
    assert torch.equal(found.scores, released.scores)


def test_max_keypoints_keeps_the_best(single_features, part):
    every = single_features
    few = created(D2NetOptions(max_keypoints=7)).extract(part)
    assert torch.equal(few.keypoints, every.keypoints[:7])
    assert torch.equal(few.descriptors, every.descriptors[:7])
    many = created(D2NetOptions(max_keypoints=100_000)).extract(part)
    assert len(many) == len(every)


def test_a_larger_edge_threshold_finds_more(single_features, part):
    loose = created(D2NetOptions(edge_threshold=50.0)).extract(part)
    strict = created(D2NetOptions(edge_threshold=1.5)).extract(part)
    assert len(strict) < len(single_features) < len(loose)


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_a_flat_image_has_no_features(single, value):
    found = single.extract(torch.full((3, 121, 137), value))
    assert found.descriptors.shape == (0, 512)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 131), (9, 9)])
def test_the_smallest_images_may_have_no_features_but_keep_their_widths(single, height, width):
    found = single.extract(random_uniform(3, height, width, seed=0))
    assert found.keypoints.shape == (len(found), 2)
    assert found.descriptors.shape == (len(found), 512)
    assert found.global_descriptor.shape == (512,)


def test_an_image_that_is_too_small_for_the_coarsest_level_is_named(single, multi):
    with pytest.raises(ValueError, match="image of 40 x 7 is too small: 8 at least"):
        single.extract(torch.zeros(3, 7, 40))
    with pytest.raises(ValueError, match="image of 20 x 7 is too small: 8 at least"):
        multi.extract(torch.zeros(3, 15, 40))


@pytest.mark.parametrize("shape", [(3, 40, 40), (1, 1, 40, 40), (1, 40, 40, 3), (1, 4, 40, 40)])
def test_images_of_another_shape_are_refused(single, shape):
    with pytest.raises(ValueError, match="B x 3 x H x W, not") as error:
        single(torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_images_of_whole_numbers_are_refused(single):
    with pytest.raises(ValueError, match=r"floating point in \[0, 1\], not torch\.uint8"):
        single(torch.zeros(1, 3, 40, 40, dtype=torch.uint8))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_finds_nearly_the_same_features(single_features, part, precision):
    found = created(D2NetOptions(precision=precision)).extract(part)
    assert found.keypoints.dtype == found.descriptors.dtype == torch.float32
    expected = single_features
    distances = torch.cdist(expected.keypoints, found.keypoints)
    nearest, index = distances.min(dim=1)
    assert (nearest < 1).float().mean() > 0.5
    cosines = (expected.descriptors * found.descriptors[index]).sum(dim=1)[nearest < 1]
    assert cosines.median() > 0.99


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scales": ()}, r"coarse to fine: \(\)"),
        ({"scales": (1.0, 0.5)}, r"coarse to fine: \(1.0, 0.5\)"),
        ({"scales": (1.0, 1.0)}, "coarse to fine"),
        ({"scales": (0.0, 1.0)}, "scales must be from 0.01 to 16, not 0.0"),
        ({"scales": (-1.0,)}, "scales must be from 0.01 to 16, not -1.0"),
        ({"max_keypoints": 0}, "max_keypoints must be from 1 to .*, not 0"),
        ({"edge_threshold": 0.0}, "edge_threshold must be from 1e-06 to .*, not 0.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, expected):
    with pytest.raises(ValueError, match=expected):
        D2NetOptions(**options)


def test_unknown_weights_are_refused():
    with pytest.raises(WeightsError, match="d3_ots: there is no such file"):
        D2Net(D2NetOptions(weights="d3_ots"))


def features_of(scores, **more):
    count = len(scores)
    return Features(
        keypoints=torch.arange(2.0 * count).view(-1, 2),
        scores=torch.tensor(scores),
        descriptors=torch.arange(4.0 * count).view(-1, 4),
        scales=torch.arange(1.0 * count),
        **more,
    )


def test_the_best_features_stay_together_and_equal_ones_in_order():
    best = features_of([1.0, 3.0, 2.0, 3.0], global_descriptor=torch.ones(5)).best(3)
    assert best.scores.tolist() == [3.0, 3.0, 2.0]
    assert best.keypoints.tolist() == [[2, 3], [6, 7], [4, 5]]
    assert best.descriptors[:, 0].tolist() == [4, 12, 8]
    assert best.scales.tolist() == [1, 3, 2]
    assert best.global_descriptor.tolist() == [1.0] * 5


def test_the_best_of_no_features_are_none():
    none = features_of([1.0]).best(0)
    assert len(none) == len(none.best(5)) == len(none.best(None)) == 0
    assert none.best(5).descriptors.shape == (0, 4)
