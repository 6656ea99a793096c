"""The variants of D2-Net by name: d2net-ms and d2net-fine."""

import pytest
from torch.testing import assert_close

from d2_hloc.features.options import ExtractionOptions
from d2_hloc.features.registry import adapter_of
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.options import FINE, MULTISCALE, D2NetOptions


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        ("d2net", D2NetOptions()),
        ("d2net-ms", D2NetOptions(scales=MULTISCALE)),
        ("d2net-fine", D2NetOptions(**FINE)),
    ],
)
def test_a_name_stands_for_options(feature, expected):
    assert ExtractionOptions(feature=feature).d2net_options == expected


def test_what_is_asked_for_wins_over_the_name():
    asked = D2NetOptions(max_keypoints=50, edge_threshold=10.0)
    found = ExtractionOptions(feature="d2net-fine", d2net=asked).d2net_options
    assert (found.max_keypoints, found.edge_threshold) == (50, 10.0)
    assert found.scales == FINE["scales"]


def test_files_of_one_pyramid_record_what_they_did_before_there_were_two():
    adapter = adapter_of("d2net")
    assert "second_scales" not in adapter.configuration(ExtractionOptions())["d2net"]
    fine = adapter.configuration(ExtractionOptions(feature="d2net-fine"))["d2net"]
    assert tuple(fine["second_scales"]) == FINE["second_scales"]


@pytest.mark.usefixtures("on_device")
def test_each_pyramid_finds_what_it_finds_alone(photo):
    options = D2NetOptions(scales=(0.9,), second_scales=(0.5, 1.0), max_keypoints=70)
    both = D2Net(options).extract(photo)
    assert both.pyramids is not None
    assert both.pyramids.bincount().tolist() == [70, 70]
    for k, scales in enumerate(options.pyramids):
        alone = D2Net(D2NetOptions(scales=scales, max_keypoints=70)).extract(photo)
        part = both.chosen((both.pyramids == k).nonzero()[:, 0])
        for name in ("keypoints", "scores", "descriptors", "scales"):
            assert_close(getattr(part, name), getattr(alone, name), rtol=0, atol=0)
    assert alone.pyramids is None


@pytest.mark.parametrize("scales", [(1.0, 0.5), (1.0, 1.0), (-1.0,)])
def test_sizes_of_the_second_pyramid_have_to_rise(scales):
    with pytest.raises(ValueError, match="second_scales must"):
        D2NetOptions(second_scales=scales)


@pytest.mark.usefixtures("on_device")
def test_fine_features_are_those_of_d2net_and_others(photo):
    """With edges at the same scale, the detections of d2net are among them."""
    alike = D2NetOptions(edge_threshold=FINE["edge_threshold"])
    few, more = (D2Net(options).extract(photo) for options in (D2NetOptions(), alike))
    assert len(more) > 1.2 * len(few)
    offsets = few.keypoints[:, None] - more.keypoints
    distances = offsets.norm(dim=2).min(dim=1).values
    assert distances.max() < 1e-3
