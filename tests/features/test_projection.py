"""Projections find planted directions, come back from their file, and refuse what does not fit."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from random_tensors import random_normal, random_uniform

from d2_hloc.core.structs import Features
from d2_hloc.features import projection
from d2_hloc.features.options import BUNDLED
from d2_hloc.features.projection import learn_projection, load_projection, save_projection
from d2_hloc.files import features_h5
from d2_hloc.files.provenance import file_sha256
from d2_hloc.files.staged_h5 import Staged

pytestmark = pytest.mark.usefixtures("on_device")


def write(path, images):
    """Features of these descriptors, an image each."""
    with Staged(path, {"feature": "planted"}, "keypoints") as staged:
        for k, descriptors in enumerate(images):
            count = len(descriptors)
            features = Features(
                keypoints=torch.zeros(count, 2),
                scores=torch.ones(count),
                descriptors=descriptors,
                scales=torch.ones(count),
            )
            record = features_h5.features_record(features, (64, 48), 1.0, "float32")
            staged.add(f"{k}.jpg", record)
    return path


@pytest.fixture
def planted():
    """Descriptors of 12 numbers that vary in three directions alone, and these directions."""
    directions = torch.linalg.qr(random_normal(12, 3, seed=0)).Q
    weights = random_normal(900, 3, seed=2) * torch.tensor([3.0, 2.0, 1.0])
    return weights @ directions.T + 1.0, directions


@pytest.fixture
def features(planted, tmp_path):
    return write(tmp_path / "features.h5", planted[0].split(300))


def learned(features, **options):
    """A projection that was learned from a file, on the default device."""
    found, device = learn_projection(features, **options), torch.get_default_device()
    return replace(found, mean=found.mean.to(device), basis=found.basis.to(device))


def test_plain_pca_finds_the_planted_directions_in_their_order(planted, features):
    found = learned(features, roots=False, whitening=0.0)
    assert found.basis.shape == (12, 12)
    overlap = (found.basis[:, :3].T @ planted[1]).abs()
    torch.testing.assert_close(overlap, torch.eye(3), atol=0.1, rtol=0)
    torch.testing.assert_close(found.mean, torch.ones(12), atol=0.2, rtol=0)
    outside = found.basis[:, :3] - planted[1] @ (planted[1].T @ found.basis[:, :3])
    assert outside.abs().max() < 1e-3


def test_three_directions_keep_all_similarities(planted, features):
    found = learned(features, roots=False, whitening=0.0)
    centred = F.normalize(planted[0] - found.mean)
    small = found.first(3).apply(planted[0])
    assert small.shape == (900, 3)
    torch.testing.assert_close(small @ small.T, centred @ centred.T, atol=1e-3, rtol=0)


def test_whitening_evens_out_the_variances(planted, features):
    found = learned(features, roots=False, whitening=0.5).first(3)
    variances = ((planted[0] - found.mean) @ found.basis).var(dim=0)
    torch.testing.assert_close(variances, torch.ones(3), atol=0.01, rtol=0)


def test_roots_hold_large_numbers_back(features):
    found = learned(features)
    assert found.is_of_roots
    large = torch.zeros(1, 12)
    large[0, :2] = torch.tensor([0.9, -0.4359])
    roots = F.normalize(torch.tensor([[0.9**0.5, -(0.4359**0.5), *[0.0] * 10]]))
    expected = F.normalize((roots - found.mean) @ found.basis)
    torch.testing.assert_close(found.apply(large), expected)
    torch.testing.assert_close(found.apply(7 * large), expected)  # of any length


def test_learning_is_repeatable_and_says_from_what(features, monkeypatch):
    first, second = learn_projection(features), learn_projection(features)
    assert torch.equal(first.basis, second.basis)
    made = first.learned_from
    assert (made["images"], made["descriptors"]) == (3, 900)
    assert made["features"] == {"feature": "planted"}
    monkeypatch.setattr(projection, "IMAGES", 2)
    monkeypatch.setattr(projection, "FROM_EACH", 50)
    made = learn_projection(features).learned_from
    assert (made["images"], made["descriptors"]) == (2, 100)


def test_numbers_that_are_always_equal_do_no_harm(tmp_path):
    descriptors = random_uniform(100, 6, seed=0)
    descriptors[:, 2:] = 0.25
    found = learn_projection(write(tmp_path / "f.h5", [descriptors]))
    assert found.basis.isfinite().all()
    assert found.apply(descriptors).isfinite().all()


def test_comes_back_from_its_file(features, tmp_path):
    expected = learned(features)
    path = save_projection(tmp_path / "p.safetensors", expected)
    found = load_projection(path)
    torch.testing.assert_close(found.basis, expected.basis.cpu(), atol=2e-3, rtol=1e-3)
    assert (found.is_of_roots, found.learned_from) == (True, expected.learned_from)
    assert file_sha256(save_projection(tmp_path / "again.safetensors", found)) == file_sha256(path)


def test_no_descriptors_stay_none(features):
    assert learn_projection(features).first(4).apply(torch.empty(0, 12)).shape == (0, 4)


def test_what_does_not_fit_is_refused(features, tmp_path):
    found = learn_projection(features)
    with pytest.raises(ValueError, match="of 5 numbers cannot be projected by a projection of 12"):
        found.apply(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="from 1 to 12, not 13"):
        found.first(13)
    few = write(tmp_path / "few.h5", [random_uniform(7, 12, seed=0)])
    with pytest.raises(ValueError, match=r"few\.h5: holds 7 descriptors, too few"):
        learn_projection(few)
    with pytest.raises(ValueError, match="holds 0 descriptors"):
        learn_projection(write(tmp_path / "none.h5", []))


@pytest.mark.parametrize("content", [b"", b"not a projection", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_is_none_is_one_sentence(tmp_path, content):
    path = tmp_path / "p.safetensors"
    with pytest.raises(ValueError, match="no such projection"):
        load_projection(path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"p\.safetensors: is not a projection, or is damaged"):
        load_projection(path)


def test_the_bundled_one_is_of_d2net_off_the_shelf():
    found = load_projection(BUNDLED)
    assert found.basis.shape == (512, 256)
    assert found.learned_from["features"]["d2net"]["weights"] == "d2_ots"
    alike = F.normalize(random_uniform(1, 512, seed=0) + 0.01 * random_uniform(50, 512, seed=1))
    assert found.first(128).apply(alike).norm(dim=1).allclose(torch.ones(50))
