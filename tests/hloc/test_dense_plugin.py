"""Dense features and matches under hloc's interfaces, and what our own runner makes of them."""

import textwrap

import numpy as np
import pytest
import torch
from hloc_toolbox import STOOD_IN

from d2_hloc.core.config import ConfigError
from d2_hloc.extractors.d2net_dense import D2NetDenseExtractor
from d2_hloc.hloc import commands, plugin
from d2_hloc.hloc.model_inputs import given_size
from d2_hloc.matchers.d2net_dense import D2NetDense
from d2_hloc.matchers.d2net_grown import D2NetGrown


@pytest.fixture(scope="module")
def extracted(photo):
    """Features of two crops of a photograph, 9 pixels apart, as hloc reads them from its file."""
    model, found = D2NetDenseExtractor({"cells": {"max_cells": 5000}}).eval(), {}
    for k, image in enumerate((photo[:, :200, :240], photo[:, :200, 9:249])):
        features = model({"image": image[None]})
        found |= {f"{name}{k}": value for name, value in features.items()}
        found[f"image{k}"] = torch.empty(1, *image.shape)
    return found


def test_features_are_of_hlocs_form(extracted):
    count = extracted["scores0"].shape[1]
    assert count > 500
    assert extracted["keypoints0"].shape == (1, count, 2)
    assert extracted["keypoints0"].dtype == torch.float64
    assert extracted["descriptors0"].shape == (1, 128, count)
    assert extracted["scales0"].shape == (1, count)


def test_grown_matches_of_hlocs_form(extracted):
    found = D2NetGrown({"max_index": None})(extracted)
    matches0 = found["matches0"][0]
    assert matches0.dtype == torch.int64
    assert found["matching_scores0"].shape == found["matches0"].shape
    moved = extracted["keypoints1"][0][matches0[matches0 >= 0]]
    errors = extracted["keypoints0"][0][matches0 >= 0] - torch.tensor([9.0, 0.0]) - moved
    assert len(errors) > 300
    assert (errors.norm(dim=1) < 8).double().mean() > 0.8
    with pytest.raises(ValueError, match="would store indices above 10 wrapped around"):
        D2NetGrown({"max_index": 10})(extracted)


def test_the_size_may_come_in_two_ways(extracted):
    assert given_size(extracted, "1", "it") == (240, 200)
    assert given_size({"image_size0": torch.tensor([[5, 7]])}, "0", "it") == (5, 7)
    with pytest.raises(ValueError, match="it needs the image's size: image_size0, or image0"):
        given_size({}, "0", "it")


def test_dense_matches_of_hlocs_form(photo):
    images = {"image0": photo[None, :, :200, :240], "image1": photo[None, :, :200, 9:249]}
    found = D2NetDense({"name": "d2net_dense"})(images)
    count = len(found["scores"])
    assert count > 500
    assert found["keypoints0"].shape == found["keypoints1"].shape == (count, 2)
    errors = found["keypoints0"] - torch.tensor([9.0, 0.0]) - found["keypoints1"]
    assert errors.norm(dim=1).median() < 0.1
    with pytest.raises(ValueError, match=r"image1 must be 1 x 3 x H x W, not \(2, 3, 8, 8\)"):
        D2NetDense({})(images | {"image1": torch.zeros(2, 3, 8, 8)})
    with pytest.raises(ConfigError, match="unknown key 'cell'"):
        D2NetDense({"cell": 8})


def test_hloc_finds_them_by_name(photo, tmp_path):
    """Run in a process of its own: registering changes hloc for good."""
    torch.save((photo[:, :203, :240], photo[:, :203, 9:249]), tmp_path / "images.pt")
    code = """
        import sys, numpy as np, torch, d2_hloc
        d2_hloc.register()
        from hloc import extract_features, match_dense, match_features
        assert "loftr" in match_dense.confs
        assert extract_features.confs["d2net-dense"]["model"]["name"] == "d2net_dense"
        assert match_features.confs["d2net-dense+grown"]["model"]["max_index"] is None
        images = torch.load(sys.argv[1])
        found = match_dense.match_pair(match_dense.confs["d2net_dense"], *images)
        errors = found["keypoints0"] - [9, 0] - found["keypoints1"]
        print(len(errors), np.median(np.linalg.norm(errors, axis=1)))
    """
    done = STOOD_IN.python(textwrap.dedent(code), tmp_path / "images.pt")
    assert done.returncode == 0, done.stderr
    count, median = map(float, done.stdout.split())
    assert count > 500
    assert median < 0.1


def test_our_own_runner_takes_the_confs():
    options = commands.extraction_options_of(plugin.EXTRACTORS["d2net-dense"], "float16")
    assert options.feature == "d2net-dense"
    assert options.resize_max == 1600
    assert np.all([name in commands.MATCHERS for name in plugin.MATCHER_OF.values()])
